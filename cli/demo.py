"""`read-cache demo`: the main job on the bundled backbone and sample tasks."""

import time
from pathlib import Path
from typing import Annotated

import typer

import read_cache
from read_cache.cli.output import print_table, say, watching
from read_cache.data import BUNDLED_BACKBONE
from read_cache.tasks import SAMPLE_TASKS


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the stores and networks.")] = Path("read-cache-demo"),
    task: Annotated[
        list[str], typer.Option(metavar="<str>", help=f"Sample task, of {', '.join(SAMPLE_TASKS)}; may be repeated.")
    ] = ["sample-sentiment", "sample-similarity"],  # noqa: B006
    epochs: Annotated[int, typer.Option(help="Train for at most this many epochs.")] = 5,
) -> None:
    """Extract two sample tasks and train on them.

    The bundled backbone fills a store for each task, and networks train from it. No internet connection is needed.
    """
    started = time.monotonic()
    rows = []
    for name in task:
        store, runs = out / "stores" / name, out / "runs"
        with watching() as watch:
            read_cache.extract(BUNDLED_BACKBONE, name, store, watch=watch)
            networks = ["probe", "read", "read_matching"]
            results = read_cache.train(store, runs, network=networks, cell="rnn", epochs=epochs, watch=watch)
        scores = {split: read_cache.evaluate(store, split=split, baselines=True) for split in ("validation", "test")}
        for validation, test in zip(scores["validation"], scores["test"], strict=True):
            rows.append((name, validation["network"], validation["metric"], test["metric"]))
        rows += [(name, result.network, result.validation, result.test) for result in results.results]
    print_table(("task", "network", "validation", "test"), rows)
    last = Path(results.results[0].folder).parent
    say(
        f"{time.monotonic() - started:.0f} s. The stores are in {out}/stores, the networks in {out}/runs.\n"
        f"Check one:   read-cache verify {out}/stores/{task[-1]}\n"
        f"Evaluate:    read-cache evaluate --store {out}/stores/{task[-1]} --network {last} --baselines"
    )
