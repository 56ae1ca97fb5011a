"""A shuffled epoch from a store / a plain copy from a memory map, / plain zarr; and its peak memory."""

import shutil
from pathlib import Path
from statistics import median

import numpy as np
import zarr

from read_cache.bench.case import Case, random_store
from read_cache.bench.measure import Facts, Result, alternate, clock, drain, ratio
from read_cache.bench.steps import RUN, epoch_order, reading_peak, streamed
from read_cache.loader.batches import SplitBatches
from read_cache.planning.processes import in_own_process
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import SplitReader, StoreReader


def bench_read(case: Case) -> Result:
    """Time to read the used values with the page cache warm, after the first epoch, which compares every checksum."""
    store = random_store(case)
    batches = streamed(store)
    split, flat = batches.split, case.folder / "flat"
    extents = write_flat(split, flat)
    sides = {
        "read-cache": lambda: clock(lambda: read_epoch(batches)),
        "memory map": lambda: clock(lambda: drain(np.array(np.memmap(flat, np.uint8, "r", *each)) for each in extents)),
        "zarr": lambda: clock(lambda: read_zarr(store)),
    }
    seconds = alternate(sides, case.config.repeats)
    flat.unlink()
    used = sum(extents[-1])
    facts: Facts = {"used_megabytes": used / 1e6, "parts": split.parts, "batch_size": RUN.batch_size}
    facts |= {f"{side} GB/s": used / median(times) / 1e9 for side, times in seconds.items()}
    ratios = [
        ratio(seconds, "memory map", "read-cache", "at least 0.8"),
        ratio(seconds, "zarr", "read-cache", "at least 1.3"),
    ]
    if case.config.peaks:
        peaks = {"the store": [peak(case, 1)], "10 times the store": [peak(case, 10)]}
        facts |= {f"peak megabytes, {name}": taken / 1e6 for name, (taken,) in peaks.items()}
        ratios.append(ratio(peaks, "10 times the store", "the store", "peak memory, at most 1.1"))
    return Result(facts, seconds, ratios)


def read_epoch(batches: SplitBatches) -> None:
    """Read every batch of a shuffled epoch: mapped, checked, padded in the dtypes of the store."""
    drain(batches.padded_batches(epoch_order(batches.split)))


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


def peak(case: Case, times: int) -> float:
    """Return the growth of memory, in bytes, while as many batches are read of the smaller store or of the larger one.

    The parts of both are equally large; pages of mapped files count.
    """
    store = random_store(case, share=0.1, times=times)
    taken = in_own_process(reading_peak, store.folder.path, 10 // times)
    shutil.rmtree(store.folder.path)
    return taken
