"""All parts in turn, in a temporary folder."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from read_cache.bench.attach import bench_attach
from read_cache.bench.case import BenchConfig, Case
from read_cache.bench.extract import bench_extract
from read_cache.bench.live import bench_live
from read_cache.bench.machine import machine_facts
from read_cache.bench.measure import Result
from read_cache.bench.networks import bench_networks
from read_cache.bench.plan import bench_plan
from read_cache.bench.read import bench_read
from read_cache.bench.size import bench_size
from read_cache.bench.synthetic import write_synthetic_store
from read_cache.bench.train import bench_train
from read_cache.errors import UserError

PARTS = ("extract", "read", "train", "networks", "live", "attach", "size")
LONG_PARTS = ("plan",)
"""Run only where they are named: minutes in processes of their own."""


def run_bench(
    config: BenchConfig, parts: Sequence[str], folder: Path | None, done: Callable[[Result], None]
) -> dict[str, Any]:
    """Run some parts; `done` is called with each result. Returns what the JSON file holds, all parts by name.

    Stores and weights lie in a temporary folder inside `folder`, or the system's, and are removed.
    Raises UserError.
    """
    if unknown := [part for part in parts if part not in PARTS + LONG_PARTS]:
        raise UserError(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS + LONG_PARTS)}")
    found: dict[str, Any] = {"machine": machine_facts(), "config": dataclasses.asdict(config), "parts": {}}
    with tempfile.TemporaryDirectory(dir=folder, prefix="read-cache-bench-") as temporary:
        case = Case(config, Path(temporary))
        runs: dict[str, Callable[[], Result]] = {
            "extract": lambda: bench_extract(case),
            "read": lambda: bench_read(case, store),
            "train": lambda: bench_train(case, store),
            "networks": lambda: bench_networks(case, store),
            "live": lambda: bench_live(case, store),
            "attach": lambda: bench_attach(case),
            "size": lambda: bench_size(case),
            "plan": lambda: bench_plan(case),
        }
        if {"read", "train", "networks", "live"} & set(parts):
            store = write_synthetic_store(Path(temporary) / "synthetic", case, config.store_megabytes, config.parts)
        for part in dict.fromkeys(parts):
            result = runs[part]()
            found["parts"][part] = result.to_json()
            done(result)
    return found
