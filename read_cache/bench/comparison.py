"""READ beside the majority class, a linear probe on the last hidden state, and full fine-tuning, as Markdown.

`python -m read_cache.bench.comparison STORES READ_RUN FINETUNE_RUN`: test metrics times 100; READ and fine-tuning are
the configuration that is best on validation, mean ± deviation over its seeds.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from read_cache.program import run_program
from read_cache.report.aggregate import Configuration, average_over_tasks, by_store
from read_cache.report.paper import partial_rows
from read_cache.scoring.baselines import baselines
from read_cache.store.manifest import find_stores
from read_cache.store.reader import StoreReader
from read_cache.train.results import read_results

LINEAR = ("majority class", "linear probe")
TRAINED = ("READ", "full fine-tuning")


def chosen(run: Path) -> dict[str, Configuration]:
    """By a store's digest, the configuration of a run with the most seeds that is best on validation.

    A run is a folder with results, or a folder of those.
    """
    results = [result for folder in (run, *sorted(run.glob("*/"))) for result in read_results(folder)]
    return {store.digest: store.chosen for store in by_store(results) if store.chosen}


def comparison(stores: str, read_run: Path, finetune_run: Path) -> None:
    """Print one row a task, and their average over the tasks that have every figure."""
    trained = dict(zip(TRAINED, (chosen(read_run), chosen(finetune_run)), strict=True))
    columns = (*LINEAR, *TRAINED)
    print(f"| task | training rows | {' | '.join(columns)} | chosen READ | chosen rate of full fine-tuning |")
    print("|---" * (len(columns) + 4) + "|")
    rows: list[tuple[Mapping[str, float], Mapping[str, Configuration]]] = []
    for folder in find_stores(stores):
        store = StoreReader(folder)
        manifest = store.manifest
        linear = {who: metric["test"] for who, metric in baselines(store, probe=True).items() if "test" in metric}
        found = {who: by[manifest.digest] for who, by in trained.items() if manifest.digest in by}
        cells = [f"{linear[who]:.1f}" if who in linear else "-" for who in LINEAR]
        cells += [f"{found[who].test:.1f}" if who in found else "-" for who in TRAINED]
        cells += [found["READ"].label if "READ" in found else "-"]
        cells += [f"{found[TRAINED[1]].learning_rate:g}" if TRAINED[1] in found else "-"]
        partial = partial_rows(manifest.task.name, {name: split.examples for name, split in manifest.splits.items()})
        name = f"{manifest.task.name} ({manifest.task.metric}{', partial' if partial else ''})"
        print(f"| {name} | {manifest.splits['train'].examples:,} | {' | '.join(cells)} |")
        if all(who in linear for who in LINEAR) and all(who in found for who in TRAINED):
            rows.append((linear, found))
    if rows:
        cells = [f"{fmean(linear[who] for linear, _ in rows):.1f}" for who in LINEAR]
        cells += [f"{average_over_tasks([found[who] for _, found in rows]):.1f}" for who in TRAINED]
        print(f"| average (tasks: {len(rows)}) | | {' | '.join(cells)} | | |")


if __name__ == "__main__":
    run_program(comparison)
