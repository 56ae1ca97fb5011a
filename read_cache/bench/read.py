"""A shuffled epoch from a store / a plain copy from a memory map, / plain zarr."""

from pathlib import Path
from statistics import median

import numpy as np
import zarr

from read_cache.bench.case import Case, random_store
from read_cache.bench.measure import Facts, Result, alternate, clock, drain, ratio
from read_cache.bench.train import RUN, epoch_order, streamed
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import SplitReader, StoreReader


def bench_read(case: Case) -> Result:
    """Time to read the used values and to compare all checksums, with the page cache warm."""
    store = random_store(case)
    batches = streamed(store)
    split, flat = batches.split, case.folder / "flat"
    extents = write_flat(split, flat)
    sides = {
        "read-cache": lambda: clock(lambda: drain(batches.padded_batches(epoch_order(split)))),
        "memory map": lambda: clock(lambda: drain(np.array(np.memmap(flat, np.uint8, "r", *each)) for each in extents)),
        "zarr": lambda: clock(lambda: read_zarr(store)),
    }
    seconds = alternate(sides, case.config.repeats)
    flat.unlink()
    used = sum(extents[-1])
    facts: Facts = {"used_megabytes": used / 1e6, "parts": split.parts, "batch_size": RUN.batch_size}
    facts |= {f"{side} GB/s": used / median(times) / 1e9 for side, times in seconds.items()}
    targets = {"memory map": "at least 0.8", "zarr": "at least 1.3"}
    return Result(facts, seconds, [ratio(seconds, side, "read-cache", target) for side, target in targets.items()])


def write_flat(split: SplitReader, path: Path) -> list[tuple[int, int]]:
    """Write a split's used values one after another; return (start, size) in bytes of each part of each array."""
    extents = []
    with path.open("wb") as file:
        for part in range(split.parts):
            for values in split.read_part(part).values():
                extents.append((file.tell(), values.nbytes))
                file.write(np.ascontiguousarray(values).data)
    return extents


def read_zarr(store: StoreReader) -> None:
    """Read the training split as any program would that knows zarr and not read-cache."""
    group = zarr.open_group(f"{store.folder.path}/{StoreFolder.ARRAYS}/train", mode="r")
    split = store.split("train")
    for part in range(split.parts):
        for spec in split.specs.values():
            array = group[spec.name]
            assert isinstance(array, zarr.Array)
            axis = spec.flat_axis or ""
            size = store.manifest.splits["train"].chunk[axis]
            array[(slice(None),) * spec.axes.index(axis) + (slice(part * size, (part + 1) * size),)]
