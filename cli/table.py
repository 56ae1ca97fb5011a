"""`python -m read_cache.cli.table STORES RUN`: a run against the baselines, mean and spread over seeds, as Markdown."""

from collections import defaultdict
from pathlib import Path

from read_cache.baselines import baselines
from read_cache.program import run_program
from read_cache.report.aggregate import spread
from read_cache.store.manifest import find_stores
from read_cache.store.reader import StoreReader
from read_cache.train.results import read_results


def table(stores: Path, run: Path) -> None:
    """Print one row a task: baselines, then READ by everything but the seed, test metric (mean ± deviation)."""
    rows: dict[str, dict[str, str]] = {}
    for folder in find_stores(str(stores)):
        store = StoreReader(folder)
        name = store.manifest.task.name
        rows[name] = {who: f"{by['test']:.1f}" for who, by in baselines(store, probe=True).items() if "test" in by}
        seeds = defaultdict(list)
        for result in read_results(run):
            if result["store_digest"] == store.manifest.digest and result["test"] is not None:
                but_seed = result["network"].removesuffix(f"-seed{result['seed']}")
                seeds[f"READ {but_seed}"].append(result["test"])
        for who, values in sorted(seeds.items()):
            over_seeds = spread(values)
            rows[name][who] = f"{over_seeds:.1f}" if over_seeds else "-"
    columns = list(dict.fromkeys(who for row in rows.values() for who in row))
    print("| task | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(row.get(who, "-") for who in columns) + " |")


if __name__ == "__main__":
    run_program(table)
