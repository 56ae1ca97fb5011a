"""Read everything; name every chunk that is missing, corrupt or non-finite, and every part that was exchanged."""

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
        try:
            split = store.split(name)
            for spec in split.specs:
                split.open_array(spec.name)
            yield from _verify_plan(split)
        except StoreError as error:
            yield f"{name}: its parts could not be read: {error}"
            continue
        for part in range(split.parts):
            yield from _verify_part(split, part)
            progress()
    try:
        _, weight = store.head
        if not np.isfinite(weight).all():
            yield "head/weight: non-finite values"
    except StoreError as error:
        yield str(error)


def _verify_plan(split: SplitReader) -> Iterator[str]:
    for part, done in enumerate(split.done):
        if not done:
            yield f"{split.name}/done: part {part} is not marked as done"
    for axis, offsets in split.layout.offsets.items():
        if not np.array_equal(offsets, split.plan[f"{axis}_offset"]):
            yield f"{split.name}/{axis}_offset: does not follow from the lengths"


def _verify_part(split: SplitReader, part: int) -> Iterator[str]:
    arrays = {}
    for spec in split.specs:
        values, findings = _read_chunks(split, spec, part)
        yield from findings
        if findings:
            continue
        arrays[spec.name] = values
        if not finite(values):
            yield f"{split.name}/{spec.name} part {part}: non-finite values"
    if len(arrays) == len(split.specs) and part_checksum(arrays) != split.done[part]:
        yield f"{split.name} part {part}: chunks are intact but are not those that were sealed"


def _read_chunks(split: SplitReader, spec: ArraySpec, part: int) -> tuple[np.ndarray, list[str]]:
    """A part's used places of one array, read chunk by chunk, and a line for each chunk that cannot be read."""
    array = split.open_array(spec.name)
    axis = spec.axes.index(spec.flat_axis or "")
    chunks, findings = [], []
    for state in range(array.shape[0]):
        index = (state, *(part if number == axis else 0 for number in range(1, array.ndim)))
        name = f"{split.name}/{spec.name}/c/{'/'.join(map(str, index))}"
        if not _exists(array, index):
            findings.append(f"{name}: missing")
            continue
        try:
            chunks.append(np.asarray(array.get_block_selection(index)))
        except (OSError, ValueError, RuntimeError) as error:
            findings.append(f"{name}: corrupt ({error})")
    used = split.used_places(spec, part)
    values = np.concatenate(chunks) if chunks else np.zeros(0)
    return (values if findings else values[(slice(None),) * axis + (slice(used),)]), findings


def _exists(array: zarr.Array, index: tuple[int, ...]) -> bool:
    key = array.metadata.encode_chunk_key(index)
    return zarr.core.sync.sync((array.store_path / key).exists())


def finite(values: np.ndarray) -> bool:
    """Whether every value is finite; uint16 holds bfloat16 bits, whose exponent must not be all ones."""
    if values.dtype == np.uint16:
        return not np.any((values & 0x7F80) == 0x7F80)
    return bool(np.isfinite(values).all())
