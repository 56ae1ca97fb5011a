"""Read everything; name every file that is missing, corrupt, not finite, or was exchanged."""

from collections.abc import Callable, Iterator

import numpy as np

from read_cache.errors import StoreError
from read_cache.store.arrays import CORRUPT
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.store.schema import DONE, shared_arrays


def verify_store(store: StoreReader, progress: Callable[[], None] = lambda: None) -> Iterator[str]:
    """Yield one line for each fault. `progress` is called after each part. Nothing is changed."""
    readable = True
    for name in store.manifest.splits:
        try:
            split = store.split(name)
            yield from _verify_plan(split)
        except StoreError as error:
            yield f"{name}: its parts could not be read: {_fault(error)}"
            readable = False
            continue
        for part in range(split.parts):
            yield from _verify_part(split, part)
            progress()
    try:
        for spec in shared_arrays(store.manifest.backbone, store.manifest.format):
            if not np.isfinite(store.read(spec.name)).all():
                yield f"{spec.name}: non-finite values"
        if readable:
            store.check_plan()
    except StoreError as error:
        yield _fault(error)


def _verify_plan(split: SplitReader) -> Iterator[str]:
    """Yield a finding if Zarr's metadata, the marks of parts or the offsets do not follow from the layout."""
    for spec in split.specs.values():
        array, shard = split.open_array(spec.name), split.shard(spec.name)
        found = (str(array.dtype), array.shards, array.chunks)
        expected = (spec.dtype, (shard.layers, *shard.inner), (1, *shard.inner))
        if found != expected:
            yield f"{split.name}/{spec.name}: its metadata say {found}, expected {expected}"
    for part in np.flatnonzero(split.done[:, 0] == 0):
        yield f"{split.name}/{DONE.name}: part {part} is not marked as done"
    for axis, offsets in split.layout.offsets.items():
        stack, _, kind = axis.rpartition("_")
        if not np.array_equal(offsets, split.plan[f"{stack}/{kind}_offset"]):
            yield f"{split.name}/{stack}/{kind}_offset: does not follow from the lengths"


def _verify_part(split: SplitReader, part: int) -> Iterator[str]:
    for name in split.specs:
        try:
            values = split.read_array(name, part)
        except StoreError as error:
            yield _fault(error)
            continue
        for layer, states in zip(split.manifest.format.array_layers(name), values, strict=True):
            if not finite(states):
                yield f"{split.file(name, part)}: non-finite values at layer {layer}"


def _fault(error: StoreError) -> str:
    """Return an error's message without its advice to verify."""
    return str(error).removesuffix(f". {CORRUPT}")


def finite(values: np.ndarray) -> bool:
    """Return True if every value is finite. uint16 holds bfloat16 bits: an exponent of all ones is not finite."""
    if values.dtype == np.uint16:
        return not np.any((values & 0x7F80) == 0x7F80)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
