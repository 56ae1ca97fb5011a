"""Read everything; name every chunk that is missing, corrupt or non-finite, and every part that was exchanged."""

from collections.abc import Callable, Iterator

import numpy as np

from read_cache.errors import StoreError
from read_cache.store.manifest import fingerprint
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.store.schema import ArraySpec
from read_cache.store.shard import part_checksum


def verify_store(store: StoreReader, progress: Callable[[], None] = lambda: None) -> Iterator[str]:
    """Yield one line for each thing that is wrong. `progress` is called after each part. Nothing is changed."""
    plans = {}
    for name in store.manifest.splits:
        try:
            split = store.split(name)
            yield from _verify_metadata(split)
            yield from _verify_plan(split)
            plans[name] = split.plan
        except StoreError as error:
            yield f"{name}: its parts could not be read: {error}"
            continue
        for part in range(split.parts):
            yield from _verify_part(split, part)
            progress()
    if len(plans) == len(store.manifest.splits) and fingerprint(plans) != store.manifest.fingerprint:
        yield "plan arrays: chunks are intact but are not those that were planned"
    try:
        _, weight = store.head
        if not np.isfinite(weight).all():
            yield "head/weight: non-finite values"
        for name, values in (store.calibration.arrays() if store.calibration else {}).items():
            if not np.isfinite(values).all():
                yield f"calibration/{name}: non-finite values"
    except StoreError as error:
        yield str(error)


def _verify_metadata(split: SplitReader) -> Iterator[str]:
    """Whether Zarr's own metadata describes the files as they are laid out."""
    for spec in split.specs.values():
        array, shard = split.open_array(spec.name), split.shard(spec.name)
        found = (str(array.dtype), array.shards, array.chunks)
        expected = (spec.dtype, (shard.layers, *shard.inner), (1, *shard.inner))
        if found != expected:
            yield f"{split.name}/{spec.name}: its metadata say {found}, expected {expected}"


def _verify_plan(split: SplitReader) -> Iterator[str]:
    for part, done in enumerate(split.done):
        if not done:
            yield f"{split.name}/done: part {part} is not marked as done"
    for axis, offsets in split.layout.offsets.items():
        if not np.array_equal(offsets, split.plan[f"{axis}_offset"]):
            yield f"{split.name}/{axis}_offset: does not follow from the lengths"


def _verify_part(split: SplitReader, part: int) -> Iterator[str]:
    checksums = []
    for spec in split.specs.values():
        file = split.manifest.shard_file(spec, split.name, part).removeprefix("arrays.zarr/")
        for problem, found in _verify_file(split, spec, part):
            if problem:
                yield f"{file}: {problem}"
            else:
                checksums.append(found)
    if len(checksums) == len(split.specs) and part_checksum(checksums) != split.done[part]:
        yield f"{split.name} part {part}: chunks are intact but are not those that were sealed"


def _verify_file(split: SplitReader, spec: ArraySpec, part: int) -> Iterator[tuple[str, bytes]]:
    """What is wrong with a part's file, or once nothing and the checksums it holds."""
    shard = split.shard(spec.name)
    try:
        image = split.folder.files.map(split.manifest.shard_file(spec, split.name, part))
    except FileNotFoundError:
        yield "missing", b""
        return
    except OSError as error:
        yield f"cannot be read ({error})", b""
        return
    if len(image) != shard.nbytes:
        yield f"corrupt: {len(image)} bytes, expected {shard.nbytes}", b""
        return
    corrupt = list(shard.corrupt(image, range(shard.layers)))
    for layer in corrupt:
        yield f"corrupt: the checksum of layer {split.manifest.form.layers(spec.name)[layer]} is wrong", b""
    if image[-len(shard.index) :].tobytes() != shard.index:
        yield "corrupt: its index is wrong", b""
        return
    values = shard.view(image)
    for layer in range(shard.layers):
        if layer not in corrupt and not finite(values[layer]):
            yield f"non-finite values at layer {split.manifest.form.layers(spec.name)[layer]}", b""
    if not corrupt:
        yield "", shard.checksums(image)


def finite(values: np.ndarray) -> bool:
    """Whether every value is finite; uint16 holds bfloat16 bits, whose exponent must not be all ones."""
    if values.dtype == np.uint16:
        return not np.any((values & 0x7F80) == 0x7F80)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
