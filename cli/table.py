"""`python -m read_cache.cli.table STORES RUN`: a run against the baselines, mean and spread over seeds, as Markdown."""

from pathlib import Path

from read_cache.program import run_program
from read_cache.report.aggregate import by_store
from read_cache.scoring.baselines import baselines
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
        for of_store in by_store(read_results(run, store.manifest.digest)):
            for one in sorted(of_store.configurations, key=lambda one: one.label):
                rows[name][f"READ {one.label}"] = f"{one.test:.1f}" if one.test else "-"
    columns = list(dict.fromkeys(who for row in rows.values() for who in row))
    print("| task | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(row.get(who, "-") for who in columns) + " |")


if __name__ == "__main__":
    run_program(table)
