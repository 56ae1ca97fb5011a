"""Stores made without the command line, and reading them example by example."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from read_cache.backbones import open_backbone
from read_cache.config import ExtractConfig
from read_cache.extraction.fill import fill_store, open_store
from read_cache.extraction.plan import make_plan
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.tasks import find_task


def make_store(
    path: Path,
    model: Path | str,
    task: str,
    dataset: Path | str | None,
    say: Callable[[str], None] = lambda text: None,
    **settings: object,
) -> StoreReader:
    """Extract a store with small parts and batches, of all positions and with attention weights by default."""
    everything = {} if settings.keys() & {"positions", "attention"} else {"positions": "all"}
    config = ExtractConfig(**{"part_tokens": 200, "batch_tokens": 120, **everything, **settings})
    backbone = open_backbone(str(model), config.computed_in)
    plan = make_plan(backbone, find_task(task), str(dataset) if dataset else None, config)
    writer = open_store(StoreFolder(path), plan, backbone, say=say)
    if writer is not None:
        fill_store(writer, plan, backbone)
    return StoreReader(path)


def plan_values(store: StoreReader, split: str, row: int, name: str) -> np.ndarray:
    """Return the values of a flat plan array, such as `encoder/token`, of one example in the order of the store."""
    plan, stack = open_split(store, split).plan, name.partition("/")[0]
    start = plan[f"{stack}/token_offset"][row]
    return plan[name][start : start + plan[f"{stack}/length"][row]]


@functools.lru_cache(maxsize=64)
def open_split(store: StoreReader, split: str) -> SplitReader:
    """Return a split of a store, opened once: tests read it example by example."""
    return store.split(split)


@functools.lru_cache(maxsize=32)
def read_array(reader: SplitReader, name: str, part: int) -> np.ndarray:
    """Return an array of one part, read once."""
    return reader.read_array(name, part)


def stored_values(store: StoreReader, split: str, row: int, name: str) -> np.ndarray:
    """Return an activation array of one example: [layer, (head,) entries, (width)]."""
    reader = open_split(store, split)
    spec = reader.specs[name]
    axis = spec.flat_axis or ""
    part = int(np.searchsorted(reader.plan["part_start"], row, side="right")) - 1
    start = int(reader.layout.offsets[axis][row]) - part * reader.layout.sizes[axis]
    values = read_array(reader, name, part)
    index = (slice(None),) * spec.axes.index(axis)
    return values[(*index, slice(start, start + int(reader.layout.extents[axis][row])))]
