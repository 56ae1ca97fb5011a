"""Plan, fill, seal. Chunk data first, then the part's `done`: a part is there or it is not."""

from collections.abc import Mapping
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.common import JSON

from read_cache.errors import StoreError
from read_cache.store.manifest import Manifest, StoreFolder
from read_cache.store.schema import DONE, HEAD_TOKENS, HEAD_WEIGHT, PLAN_ARRAYS, ArraySpec, activation_arrays

PartArrays = Mapping[str, np.ndarray]
"""One part's activations by array name: [state or layer, (head,) places, (width)]."""


def create_store(folder: StoreFolder, manifest: Manifest, plan_arrays: Mapping[str, PartArrays]) -> "StoreWriter":
    """Write the plan: all arrays' metadata, the plan arrays' values, then plan.json. Ends in the state *planned*."""
    folder.path.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.path)
    root = zarr.create_group(folder.arrays, overwrite=True)
    for split, values in plan_arrays.items():
        group = root.create_group(split)
        for spec in PLAN_ARRAYS:
            create_array(group, spec, values[spec.name].shape, values[spec.name].shape)[:] = values[spec.name]
        info = manifest.splits[split]
        create_array(group, DONE, (info.parts,), (1,))
        for spec in activation_arrays(manifest.dtype, manifest.attention):
            states = manifest.layers(spec.name) + (spec.axes[0] == "state")
            shape = (states, *(manifest.axis_size(axis, split) for axis in spec.axes[1:]))
            chunk = (1, *(info.chunk.get(axis, size) for axis, size in zip(spec.axes[1:], shape[1:], strict=True)))
            create_array(group, spec, shape, chunk)
    folder.write_plan(manifest)
    return StoreWriter(folder, manifest)


def create_array(group: zarr.Group, spec: ArraySpec, shape: tuple[int, ...], chunks: tuple[int, ...]) -> zarr.Array:
    """An uncompressed array with crc32c; empty chunks are written, so that a missing file always means missing."""
    attributes: dict[str, JSON] = {"meaning": spec.meaning}
    if spec.dtype == "uint16":
        attributes["bits_of"] = "bfloat16"
    return group.create_array(
        spec.name,
        shape=shape,
        chunks=chunks,
        dtype=spec.dtype,
        compressors=[Crc32cCodec()],
        fill_value=0,
        dimension_names=list(spec.axes),
        attributes=attributes,
        config={"write_empty_chunks": True},
    )


def part_checksum(arrays: PartArrays) -> int:
    """crc32c over a part's activations in the order of their names; never 0, which means *not done*."""
    checksum = google_crc32c.Checksum()
    for name in sorted(arrays):
        checksum.update(np.ascontiguousarray(arrays[name]).tobytes())
    return int.from_bytes(checksum.digest(), "big") or 1


class StoreWriter:
    """Fills a planned store. Parts may be written in any order, each once."""

    def __init__(self, folder: StoreFolder, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        try:
            self._root = zarr.open_group(folder.arrays, mode="r+")
        except Exception as error:
            raise StoreError(
                f"{folder.arrays} cannot be opened: {error}; remove {folder.path} and extract it again"
            ) from error
        self._specs = activation_arrays(manifest.dtype, manifest.attention)

    def missing_parts(self) -> list[tuple[str, int]]:
        """(split, part) of every part that is not done, in order."""
        return [
            (split, part)
            for split in self.manifest.splits
            for part, done in enumerate(np.asarray(self._array(split, DONE.name)[:]))
            if not done
        ]

    def write_part(self, split: str, part: int, arrays: PartArrays) -> None:
        """Write one part's chunks, then its `done`. Arrays hold exactly the part's used places.

        Raises StoreError where the disk is full or the folder cannot be written; the part stays missing.
        """
        try:
            for spec in self._specs:
                self._write_array(split, part, spec, arrays[spec.name])
            self._array(split, DONE.name)[part : part + 1] = part_checksum(arrays)
        except OSError as error:
            raise StoreError(
                f"part {part} of {split} could not be written to {self.folder.path}: {error.strerror or error}. "
                "Nothing that was complete is lost: make room and run the same command again"
            ) from error

    def _write_array(self, split: str, part: int, spec: ArraySpec, values: np.ndarray) -> None:
        array = self._array(split, spec.name)
        axis = spec.axes.index(spec.flat_axis or "")
        padding = [(0, 0)] * values.ndim
        padding[axis] = (0, array.chunks[axis] - values.shape[axis])
        block = np.pad(values, padding)
        where = tuple(part if number == axis else 0 for number in range(1, values.ndim))
        for state in range(len(block)):
            array.set_block_selection((state, *where), block[state : state + 1])

    def write_head(self, token_ids: np.ndarray, weight: np.ndarray) -> None:
        """The head's rows: token_ids [C] int64, weight [C, D] float32."""
        for spec, values in ((HEAD_TOKENS, token_ids), (HEAD_WEIGHT, weight)):
            if spec.name not in self._root:
                create_array(self._root, spec, values.shape, values.shape)
            self._array("", spec.name)[...] = values

    def seal(self) -> None:
        """Check that every part is done, sweep up after killed writers, and make the store sealed."""
        if missing := self.missing_parts():
            raise StoreError(f"{len(missing)} parts are not done, first {missing[0]}: the store cannot be sealed")
        remove_leftovers(self.folder.path)
        self.folder.seal()

    def _array(self, split: str, name: str) -> zarr.Array:
        array = self._root[f"{split}/{name}" if split else name]
        assert isinstance(array, zarr.Array)
        return array.with_config({"write_empty_chunks": True})


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files that a killed process left half-written."""
    for pattern in ("*.partial", "*.unfinished"):
        for leftover in path.rglob(pattern):
            leftover.unlink()
