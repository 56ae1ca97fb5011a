"""All parts in turn, in a temporary folder."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from read_cache.bench.case import BenchConfig, Case
from read_cache.bench.extract import bench_extract
from read_cache.bench.live import bench_live
from read_cache.bench.measure import Result
from read_cache.bench.plan import bench_plan
from read_cache.bench.read import bench_read
from read_cache.bench.train import bench_train
from read_cache.errors import UserError
from read_cache.meters.machine import machine_facts

PARTS: dict[str, Callable[[Case], Result]] = {
    "extract": bench_extract,
    "read": bench_read,
    "train": bench_train,
    "live": bench_live,
    "plan": bench_plan,
}


def run_bench(config: BenchConfig, parts: Sequence[str], done: Callable[[str, Result], None]) -> dict[str, Any]:
    """Run some parts; `done` is called with each part's name and result. Return what the JSON file holds.

    Stores and weights are in a temporary folder, which is removed; TMPDIR says where. Raises UserError.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f"part {unknown[0]!r} is unknown; known: {', '.join(PARTS)}")
    found: dict[str, Any] = {"machine": machine_facts(), "config": config.values(), "parts": {}}
    with tempfile.TemporaryDirectory(prefix="read-cache-bench-") as temporary:
        case = Case(config, Path(temporary))
        for part in dict.fromkeys(parts):
            result = PARTS[part](case)
            found["parts"][part] = dataclasses.asdict(result)
            done(part, result)
    return found
