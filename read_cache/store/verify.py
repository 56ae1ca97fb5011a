"""Read everything; name every chunk that is missing, corrupt or non-finite, and every part that is not what was sealed."""

from collections.abc import Callable, Iterator

import numpy as np
import zarr

from read_cache.errors import StoreError
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.store.schema import ArraySpec
from read_cache.store.writer import part_checksum


def verify_store(store: StoreReader, progress: Callable[[], None] = lambda: None) -> Iterator[str]:
    """Yield one line for each thing that is wrong. `progress` is called after each part. Nothing is changed."""
    for name in store.manifest.splits:
        split = store.split(name)
        try:
            yield from _verify_plan(split)
        except StoreError as error:
            yield f"{name}: the plan cannot be read, so its parts were not: {error}"
            continue
        for part in range(split.parts):
            yield from _verify_part(split, part)
            progress()
    try:
        _, weight = store.head
        if not np.isfinite(weight).all():
            yield "head/weight: non-finite values"
    except (OSError, ValueError, KeyError) as error:
        yield f"head: cannot be read: {error}"


def _verify_plan(split: SplitReader) -> Iterator[str]:
    for part, done in enumerate(split.done):
        if not done:
            yield f"{split.name}/done: part {part} is not marked as done"
    for axis, offsets in split.layout.offsets.items():
        if not np.array_equal(offsets, split.plan[f"{axis}_offset"]):
            yield f"{split.name}/{axis}_offset: does not follow from the lengths"


def _verify_part(split: SplitReader, part: int) -> Iterator[str]:
    arrays, bad = {}, False
    for spec in split.specs:
        for chunk in _bad_chunks(split, spec, part):
            bad = True
            yield chunk
        if not bad:
            arrays[spec.name] = split.read_array(spec, part)
            if not finite(arrays[spec.name]):
                bad = True
                yield f"{split.name}/{spec.name} part {part}: non-finite values"
    if not bad and part_checksum(arrays) != split.done[part]:
        yield f"{split.name} part {part}: chunks are intact but are not those that were sealed"


def _bad_chunks(split: SplitReader, spec: ArraySpec, part: int) -> Iterator[str]:
    array = split.open_array(spec.name)
    axis = spec.axes.index(spec.flat_axis or "")
    for state in range(array.shape[0]):
        index = (state, *(part if number == axis else 0 for number in range(1, array.ndim)))
        name = f"{split.name}/{spec.name}/c/{'/'.join(map(str, index))}"
        if not _exists(array, index):
            yield f"{name}: missing"
            continue
        try:
            array.get_block_selection(index)
        except (OSError, ValueError, RuntimeError) as error:
            yield f"{name}: corrupt ({error})"


def _exists(array: zarr.Array, index: tuple[int, ...]) -> bool:
    key = array.metadata.encode_chunk_key(index)
    return zarr.core.sync.sync((array.store_path / key).exists())


def finite(values: np.ndarray) -> bool:
    """Whether every value is finite; uint16 holds bfloat16 bits, whose exponent must not be all ones."""
    if values.dtype == np.uint16:
        return not np.any((values & 0x7F80) == 0x7F80)
    return bool(np.isfinite(values).all())
