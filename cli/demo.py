"""`read-cache demo`: the main job on the bundled backbone and sample tasks."""

import time
from pathlib import Path
from typing import Annotated

import typer

from read_cache.cli.extract import run_extraction
from read_cache.cli.output import print_table, say
from read_cache.cli.training import run_training
from read_cache.data import BUNDLED_BACKBONE
from read_cache.extract.config import ExtractConfig
from read_cache.networks.config import Cell, ReadConfig
from read_cache.tasks import SAMPLE_TASKS
from read_cache.train.grid import NetworkConfig, TrainConfig, grid

DEMO_TASKS = ("sample-sentiment", "sample-similarity")
CELLS: tuple[Cell, ...] = ("rnn", "gru")
MATCHING = (0, 64)


def demo(
    out: Annotated[Path, typer.Option(help="Where the stores and networks go.")] = Path("read-cache-demo"),
    task: Annotated[list[str], typer.Option(help=f"Sample tasks: {', '.join(SAMPLE_TASKS)}.")] = list(DEMO_TASKS),  # noqa: B006
    epochs: Annotated[int, typer.Option(help="At most this many.")] = 5,
) -> None:
    """Extract two sample tasks with the bundled backbone, train networks on each from the stores, compare."""
    from read_cache.scoring.baselines import baselines
    from read_cache.store.reader import StoreReader

    started = time.monotonic()
    reads = [ReadConfig(cell, matching=width) for cell in CELLS for width in MATCHING]
    run = TrainConfig(epochs=epochs)
    rows: list[tuple[str, str, float | None, float | None]] = []
    for name in task:
        folder = run_extraction(BUNDLED_BACKBONE, name, str(out / "stores" / name), None, ExtractConfig())
        for who, metric in baselines(StoreReader(folder)).items():
            rows.append((name, who, metric["validation"], metric.get("test")))
        results = run_training(folder, out / "runs", grid(reads, [NetworkConfig.learning_rate], [0]), run)
        for result in sorted(results, key=lambda result: -result["validation"]):
            rows.append((name, f"READ {result['network']}", result["validation"], result["test"]))
    print_table(("task", "network", "validation", "test"), rows)
    last = Path(results[0]["folder"]).parent
    say(
        f"{time.monotonic() - started:.0f} s. The stores are in {out}/stores, the networks in {out}/runs.\n"
        f"Look at one:   read-cache inspect {out}/stores/{task[-1]}\n"
        f"Evaluate:      read-cache evaluate --store {out}/stores/{task[-1]} --network {last} --baselines"
    )
