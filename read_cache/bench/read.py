"""A shuffled epoch from a store against a plain copy from a memory map, and against plain zarr; and its peak memory."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import zarr

from read_cache.bench.case import Case
from read_cache.bench.measure import Facts, Result, alternate, ratio
from read_cache.bench.synthetic import write_synthetic_store
from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator, split_size
from read_cache.loader.order import epoch_batches
from read_cache.planning.timing import clock
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.train.grid import TrainConfig

RUN = TrainConfig()
MEMORY_SHARE = 4
"""The smaller store whose peak memory is measured is this many times smaller than the one that is timed."""


def bench_read(case: Case, store: StoreReader) -> Result:
    """Bytes a second of used values, the page cache warm; then peak memory on two stores.

    In its first epoch a reader compares every checksum.
    """
    batches = streamed(store)
    split = batches.split
    held = SplitBatches(split, batches.collator, RUN.batch_size, RUN.window)
    used = sum(read.nbytes for part in range(split.parts) for read in split.read_part(part).arrays.values())
    flat = case.folder / "flat"
    extents = write_flat(split, flat)
    seconds = alternate(
        {
            "read-cache": lambda: clock(shuffled_epoch(batches)),
            "read-cache, first epoch": lambda: clock(shuffled_epoch(streamed(store))),
            "read-cache, held in memory": lambda: clock(shuffled_epoch(held)),
            "memory map": lambda: clock(lambda: copy_flat(flat, extents)),
            "zarr": lambda: clock(lambda: read_zarr(store)),
        },
        case.config.repeats,
    )
    flat.unlink()
    rates = {f"{side} GB/s": used / median(times) / 1e9 for side, times in seconds.items()}
    ours = seconds["read-cache"]
    parts = {
        "parts": split.parts,
        "part_megabytes": split_size(split, batches.collator).part_bytes / 1e6,
        "window": batches.window,
    }
    facts: Facts = {"used_megabytes": used / 1e6, **parts, "batch_size": batches.batch_size, **rates}
    ratios = [
        ratio("speed / memory map", seconds["memory map"], ours, "at least 0.8"),
        ratio("speed / zarr", seconds["zarr"], ours, "at least 1.3"),
        ratio("speed of the first epoch / memory map", seconds["memory map"], seconds["read-cache, first epoch"]),
        ratio("speed held in memory / memory map", seconds["memory map"], seconds["read-cache, held in memory"]),
    ]
    if case.config.peaks:
        small, large = peak_memory(case)
        facts |= {"peak_megabytes": small / 1e6, "peak_megabytes_of_10_times_the_store": large / 1e6}
        ratios.append(ratio("peak memory, 10 times the store / the store", [large], [small], "at most 1.1"))
    return Result("read", facts, seconds, tuple(ratios))


def streamed(store: StoreReader, device: str = "cpu") -> SplitBatches:
    """The training split with memory for two windows of parts and no more."""
    split, collator = store.split("train"), make_collator(store, device)
    if split.parts <= 2 * RUN.window:
        raise UserError(f"a stream of {split.parts} parts would hold them all: raise --store-megabytes")
    return SplitBatches(split, collator, RUN.batch_size, RUN.window, tier="streamed")


def epoch_order(split: SplitReader, epoch: int = 0) -> list[np.ndarray]:
    """Examples of each batch of an epoch."""
    layout = split.layout
    return epoch_batches(layout.part_start, layout.length, RUN.batch_size, RUN.window, RUN.order_seed, epoch)


def shuffled_epoch(batches: SplitBatches, epoch: int = 0) -> Callable[[], None]:
    """Read every batch of an epoch: mapped, checked, padded in the dtypes of the store."""
    order = epoch_order(batches.split, epoch)

    def run() -> None:
        for _ in batches.padded_batches(order):
            pass

    return run


def write_flat(split: SplitReader, path: Path) -> list[tuple[int, int]]:
    """Write a split's used values one after another; (start, end) in bytes of each part of each array."""
    extents, end = [], 0
    with path.open("wb") as file:
        for part in range(split.parts):
            for values in split.read_part(part).arrays.values():
                file.write(np.ascontiguousarray(values).data)
                extents.append((end, end + values.nbytes))
                end += values.nbytes
    return extents


def copy_flat(path: Path, extents: list[tuple[int, int]]) -> None:
    """Copy a flat file into fresh arrays, part by part."""
    mapped = np.memmap(path, np.uint8, "r")
    for start, end in extents:
        np.array(mapped[start:end])


def read_zarr(store: StoreReader) -> None:
    """Read the training split as any program would that knows zarr and not read-cache."""
    group = zarr.open_group(f"{store.folder.path}/{StoreFolder.ARRAYS}/train", mode="r")
    split = store.split("train")
    for part in range(split.parts):
        for spec in split.specs.values():
            array = group[spec.name]
            assert isinstance(array, zarr.Array)
            size = store.manifest.splits["train"].chunk[spec.flat_axis or ""]
            places = slice(part * size, (part + 1) * size)
            array[(slice(None),) * spec.axes.index(spec.flat_axis or "") + (places,)]


def peak_memory(case: Case) -> tuple[int, int]:
    """Peak resident bytes over what the process had before: ten epochs of a store, one of a store ten times larger.

    Parts are of one size, the memory given is the same, pages of mapped files count. With as many batches on both
    sides, the longest batch is as long on both.
    """
    peaks = []
    for times, epochs in ((1, 10), (10, 1)):
        path = case.folder / f"memory-{times}"
        megabytes = case.config.store_megabytes / MEMORY_SHARE * times
        store = write_synthetic_store(path, case, megabytes, case.config.parts * times)
        if times == 1:  # a little more than two windows: the fullest part of the larger store may be fuller
            batches = streamed(store)
            given = round(split_size(batches.split, batches.collator).streamed_bytes(RUN.window) * 1.05)
        command = [sys.executable, "-m", "read_cache.bench.memory", str(path), str(given), str(epochs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(json.loads(done.stdout)["peak_bytes"]))
        shutil.rmtree(path)
    return peaks[0], peaks[1]
