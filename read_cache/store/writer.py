"""Plan, fill, seal. Chunk data first, then the part's `done`: a part is there or it is not."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.common import JSON

from read_cache.errors import StoreError
from read_cache.store.calibration import Calibration
from read_cache.store.files import LocalFiles
from read_cache.store.lock import remove_locks
from read_cache.store.manifest import Manifest, StoreFolder
from read_cache.store.reader import UNREADABLE
from read_cache.store.schema import (
    DONE,
    HEAD_TOKENS,
    HEAD_WEIGHT,
    PLAN_ARRAYS,
    ArraySpec,
    activation_arrays,
    calibration_arrays,
)
from read_cache.store.shard import Shard, part_checksum

PlanArrays = Mapping[str, Mapping[str, np.ndarray]]
"""By split, then by array name."""


def create_store(
    folder: StoreFolder,
    manifest: Manifest,
    plan_arrays: PlanArrays,
    head: tuple[np.ndarray, np.ndarray],
    calibration: Calibration | None,
) -> None:
    """Write what is decided before the first part; plan.json last. Ends in the state *planned*.

    `head` is (token_ids [C] int64, weight [C, D] float32).
    """
    remove_leftovers(folder)
    root = folder.files.group(folder.ARRAYS, "w")
    for split, values in plan_arrays.items():
        group = root.create_group(split)
        for spec in PLAN_ARRAYS:
            write_array(group, spec, values[spec.name])
        parts = manifest.splits[split].parts
        create_array(group, DONE, (parts,), (1,))
        for spec in activation_arrays(manifest.form):
            shard = manifest.shard(spec, split)
            lengths = dict(zip(spec.axes[1:], shard.inner, strict=True))
            lengths[spec.flat_axis or ""] *= parts
            shape = (shard.layers, *(lengths[axis] for axis in spec.axes[1:]))
            create_array(group, spec, shape, (1, *shard.inner), (shard.layers, *shard.inner))
    for spec, array in zip((HEAD_TOKENS, HEAD_WEIGHT), head, strict=True):
        write_array(root, spec, array)
    if calibration is not None:
        for spec in calibration_arrays(manifest.form):
            write_array(root, spec, calibration.arrays()[spec.name.removeprefix("calibration/")])
    folder.write_plan(manifest)


def create_array(
    group: zarr.Group,
    spec: ArraySpec,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
) -> zarr.Array:
    """An uncompressed array with crc32c; empty chunks are written, so that a missing file always means missing."""
    attributes: dict[str, JSON] = {"meaning": spec.meaning}
    if spec.dtype == "uint16":
        attributes["bits_of"] = "bfloat16"
    return group.create_array(
        spec.name,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=spec.dtype,
        compressors=[Crc32cCodec()],
        fill_value=0,
        dimension_names=list(spec.axes),
        attributes=attributes,
        config={"write_empty_chunks": True},
    )


def write_array(group: zarr.Group, spec: ArraySpec, values: np.ndarray) -> None:
    """An array of one chunk."""
    create_array(group, spec, values.shape, values.shape)[...] = values


@dataclasses.dataclass(frozen=True)
class PartBuffer:
    """A part on its way to the disk: fill `arrays`, give it to `StoreWriter.write_part`."""

    split: str
    part: int
    shards: dict[str, Shard]
    images: dict[str, np.ndarray]
    """By array name: the bytes of its file."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """By array name: [layers, (head,) places, (width)], a view of the file's bytes; unused places are zero."""
        return {name: shard.view(self.images[name]) for name, shard in self.shards.items()}


class StoreWriter:
    """Fills a planned store. Parts may be written in any order, by any number of writers: equal parts, equal bytes."""

    def __init__(self, folder: StoreFolder, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._specs = activation_arrays(manifest.form)
        try:
            self._root = folder.files.group(folder.ARRAYS, "r+")
            self._done = {split: self._open(f"{split}/{DONE.name}") for split in manifest.splits}
        except UNREADABLE as error:
            raise StoreError(
                f"{folder.path}/{folder.ARRAYS} cannot be opened: {error}; remove {folder.path} and extract it again"
            ) from error

    def missing_parts(self) -> list[tuple[str, int]]:
        """(split, part) of every part that is not done, in order."""
        return [
            (split, part)
            for split, array in self._done.items()
            for part, done in enumerate(np.asarray(array[:]))
            if not done
        ]

    def is_missing(self, split: str, part: int) -> bool:
        """Whether a part is not done yet."""
        return not np.asarray(self._done[split][part : part + 1])[0]

    def part_buffer(self, split: str, part: int) -> PartBuffer:
        """An empty part."""
        shards = {spec.name: self.manifest.shard(spec, split) for spec in self._specs}
        images = {name: np.zeros(shard.nbytes, np.uint8) for name, shard in shards.items()}
        return PartBuffer(split, part, shards, images)

    def write_part(self, buffer: PartBuffer) -> None:
        """Write one part's files, then its `done`.

        Raises StoreError where the disk is full or the folder cannot be written; the part stays missing.
        """
        split, part = buffer.split, buffer.part
        try:
            checksums = []
            for spec in self._specs:
                shard, image = buffer.shards[spec.name], buffer.images[spec.name]
                shard.close(image)
                checksums.append(shard.checksums(image))
                self.folder.files.write(self.manifest.shard_file(spec, split, part), image)
            self._done[split][part : part + 1] = part_checksum(checksums)
        except OSError as error:
            if self.folder.sealed:  # another worker had the part, finished the store and swept up
                return
            raise StoreError(
                f"part {part} of {split} could not be written to {self.folder.path}: {error.strerror or error}. "
                "Nothing that was complete is lost: make room and run the same command again"
            ) from error

    def seal(self) -> None:
        """Check that every part is done, sweep up after killed writers, and make the store sealed."""
        if missing := self.missing_parts():
            raise StoreError(f"{len(missing)} parts are not done, first {missing[0]}: the store cannot be sealed")
        try:
            self.folder.seal(self.manifest)
        except OSError as error:
            if not self.folder.sealed:  # else another worker sealed it and swept up at the same moment
                raise StoreError(
                    f"{self.folder.path}/{StoreFolder.MANIFEST} cannot be written: {error.strerror or error}. "
                    "Every part is there: make room and run the same command again"
                ) from error
        remove_leftovers(self.folder)
        remove_locks(self.folder)

    def _open(self, name: str) -> zarr.Array:
        array = self._root[name]
        assert isinstance(array, zarr.Array)
        return array.with_config({"write_empty_chunks": True})


def remove_leftovers(folder: StoreFolder) -> None:
    """Delete the temporary files that a killed process left half-written; object stores leave none."""
    if isinstance(folder.files, LocalFiles):
        for pattern in ("*.partial", "*.unfinished"):
            for leftover in folder.files.root.rglob(pattern):
                leftover.unlink(missing_ok=True)
