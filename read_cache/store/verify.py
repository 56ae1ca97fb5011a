"""Read everything; name every chunk that is missing, corrupt or not finite, and every file that was exchanged."""

from collections.abc import Callable, Iterator

import numpy as np

from read_cache.errors import StoreError
from read_cache.store.manifest import plan_digests
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.store.schema import ArraySpec

NO_CHECKSUMS = np.zeros(0, np.uint32)


def verify_store(store: StoreReader, progress: Callable[[], None] = lambda: None) -> Iterator[str]:
    """Yield one line for each fault. `progress` is called after each part. Nothing is changed."""
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
    manifest = store.manifest
    expected = manifest.activations.tokens_digest, manifest.task_record.labels_digest
    if len(plans) == len(manifest.splits) and plan_digests(plans, manifest.task.labels) != expected:
        yield "plan arrays: chunks are intact but are not those that were planned"
    try:
        for name, values in shared_values(store).items():
            if not np.isfinite(values).all():
                yield f"{name}: non-finite values"
    except StoreError as error:
        yield str(error)


def shared_values(store: StoreReader) -> dict[str, np.ndarray]:
    """Return the arrays that belong to no split, by name."""
    values = {f"final_norm/{stack}": weight for stack, weight in store.final_norm.items()}
    if store.head is not None:
        values["head/weight"] = store.head[1]
    if store.calibration is not None:
        values |= {f"calibration/{name}": array for name, array in store.calibration.arrays().items()}
    return values


def _verify_metadata(split: SplitReader) -> Iterator[str]:
    """Yield a finding if Zarr's own metadata does not describe the files as they are laid out."""
    for spec in split.specs.values():
        array, shard = split.open_array(spec.name), split.shard(spec.name)
        found = (str(array.dtype), array.shards, array.chunks)
        expected = (spec.dtype, (shard.layers, *shard.inner), (1, *shard.inner))
        if found != expected:
            yield f"{split.name}/{spec.name}: its metadata say {found}, expected {expected}"


def _verify_plan(split: SplitReader) -> Iterator[str]:
    for part, marks in enumerate(split.done):
        if not marks[0]:
            yield f"{split.name}/done: part {part} is not marked as done"
    for axis, offsets in split.layout.offsets.items():
        stack, _, kind = axis.rpartition("_")
        if not np.array_equal(offsets, split.plan[f"{stack}/{kind}_offset"]):
            yield f"{split.name}/{stack}/{kind}_offset: does not follow from the lengths"


def _verify_part(split: SplitReader, part: int) -> Iterator[str]:
    for spec in split.specs.values():
        file = split.manifest.shard_file(spec, split.name, part).removeprefix("arrays.zarr/")
        for problem, found in _verify_file(split, spec, part):
            if problem:
                yield f"{file}: {problem}"
            elif not np.array_equal(found, split.sealed_checksums(spec.name, part)):
                yield f"{file}: intact, but not the file that was sealed"


def _verify_file(split: SplitReader, spec: ArraySpec, part: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (finding, no checksums) for each fault of a part's file, or once ('', its checksums)."""
    shard = split.shard(spec.name)
    try:
        image = split.folder.files.map(split.manifest.shard_file(spec, split.name, part))
    except FileNotFoundError:
        yield "missing", NO_CHECKSUMS
        return
    except OSError as error:
        yield f"cannot be read ({error})", NO_CHECKSUMS
        return
    if len(image) != shard.nbytes:
        yield f"corrupt: {len(image)} bytes, expected {shard.nbytes}", NO_CHECKSUMS
        return
    corrupt, layers = list(shard.corrupt(image, range(shard.layers))), split.manifest.format.array_layers(spec.name)
    for layer in corrupt:
        yield f"corrupt: the checksum of layer {layers[layer]} is wrong", NO_CHECKSUMS
    if image[-len(shard.index) :].tobytes() != shard.index:
        yield "corrupt: its index is wrong", NO_CHECKSUMS
        return
    values = shard.view(image)
    for layer in range(shard.layers):
        if layer not in corrupt and not finite(values[layer]):
            yield f"non-finite values at layer {layers[layer]}", NO_CHECKSUMS
    if not corrupt:
        yield "", shard.checksums(image)


def finite(values: np.ndarray) -> bool:
    """Return True if every value is finite. uint16 holds bfloat16 bits: an exponent of all ones is not finite."""
    if values.dtype == np.uint16:
        return not np.any((values & 0x7F80) == 0x7F80)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
