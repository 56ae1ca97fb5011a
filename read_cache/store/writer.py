"""Plan, fill, seal. Chunk data first, then the part's row of `done`: parts are written atomically."""

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.core.common import JSON
from zarr.storage import MemoryStore

from read_cache.errors import StoreError
from read_cache.store.folder import ACTIVATIONS_DIGEST, StoreFolder
from read_cache.store.lock import LOCKS, SHARE, UNFINISHED, remove_leftovers
from read_cache.store.manifest import Manifest
from read_cache.store.reader import checksum_columns
from read_cache.store.schema import DONE, ArraySpec, activation_arrays, plan_arrays, shared_arrays
from read_cache.store.shard import CHECKSUM_BYTES, Shard, checksum, part_mark

PlanArrays = Mapping[str, Mapping[str, np.ndarray]]
"""By split, then by array name."""


def create_store(
    folder: StoreFolder, manifest: Manifest, planned: PlanArrays, shared: Mapping[str, np.ndarray]
) -> None:
    """Write everything that is fixed before the first part of a store that was begun. It is then *planned*.

    Existing files are kept: a planner continues one that was killed, and two planners at once write the same files.
    `shared` holds the arrays of `schema.shared_arrays` by name. Raises StoreError where a file has other content.
    """
    remove_leftovers(folder, UNFINISHED)
    objects = _plan_objects(manifest, planned, shared)
    objects["zarr.json"] = objects.pop("zarr.json")  # last: its existence means *planned*
    for name, data in objects.items():
        if not folder.files.settle(f"{folder.ARRAYS}/{name}", data.to_bytes()):
            raise StoreError(
                f"{folder.path}/{folder.ARRAYS}/{name} has other content than expected: it is damaged, or another kind "
                f"of machine began the store. Remove {folder.path} and extract it again"
            )


def _plan_objects(manifest: Manifest, planned: PlanArrays, shared: Mapping[str, np.ndarray]) -> dict[str, Buffer]:
    """Return the metadata of every array, and the small arrays, by Zarr's file names."""
    objects: dict[str, Buffer] = {}
    root = zarr.open_group(MemoryStore(objects), mode="w", attributes={ACTIVATIONS_DIGEST: manifest.activations_digest})
    for split, values in planned.items():
        group = root.create_group(split)
        for spec in plan_arrays(manifest.backbone, manifest.format):
            write_array(group, spec, values[spec.name])
        parts = manifest.splits[split].parts
        columns = 1 + checksum_columns(manifest)[1]
        create_array(group, DONE, (parts, columns), (1, columns))
        for spec in activation_arrays(manifest.backbone, manifest.format):
            shard = manifest.shard(spec, split)
            lengths = dict(zip(spec.axes[1:], shard.inner, strict=True))
            lengths[spec.flat_axis or ""] *= parts
            shape = (shard.layers, *(lengths[axis] for axis in spec.axes[1:]))
            create_array(group, spec, shape, (1, *shard.inner), (shard.layers, *shard.inner))
    for spec in shared_arrays(manifest.backbone, manifest.format):
        write_array(root, spec, shared[spec.name])
    return objects


def create_array(
    group: zarr.Group,
    spec: ArraySpec,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
) -> zarr.Array:
    """Create an uncompressed array with crc32c. Empty chunks are written, so that a missing file is always an error."""
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
    """Write an array of one chunk."""
    create_array(group, spec, values.shape, values.shape)[...] = values


@dataclasses.dataclass(frozen=True)
class PartBuffer:
    """A part in memory: fill `arrays`, then pass it to `StoreWriter.write_part`."""

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
    """Fills a planned store. Parts may be written in any order, by any number of writers, with the same bytes."""

    def __init__(
        self, folder: StoreFolder, manifest: Manifest, alone: bool = False, lost: Collection[tuple[str, int]] = ()
    ) -> None:
        """`alone`: another writer is an error. `lost` is that of another writer of this store."""
        self.folder, self.manifest, self.alone = folder, manifest, alone
        self._specs = activation_arrays(manifest.backbone, manifest.format)
        self.lost = set(lost)
        """(split, part) of every part that has a mark and is not complete, as `missing_parts` found it."""

    def missing_parts(self) -> list[tuple[str, int]]:
        """Return (split, part) of every part whose mark or another file is absent or truncated, in order.

        Files are listed and not opened: behind a URL, a listing is one request for 1,000 files.
        """
        missing, self.lost = [], set()
        mark_bytes = (1 + checksum_columns(self.manifest)[1]) * np.dtype(DONE.dtype).itemsize + CHECKSUM_BYTES
        for split, info in self.manifest.splits.items():
            sizes = self.folder.files.sizes(f"{StoreFolder.ARRAYS}/{split}")
            expected = [(spec, self.manifest.shard(spec, split).nbytes) for spec in self._specs]
            for part in range(info.parts):
                whole = all(sizes.get(self.manifest.shard_file(spec, split, part)) == size for spec, size in expected)
                mark = sizes.get(mark_file(split, part))
                if not whole or mark != mark_bytes:
                    missing.append((split, part))
                    if mark is not None:
                        self.lost.add((split, part))
        return missing

    def is_missing(self, split: str, part: int) -> bool:
        """Return True if a part is still to be written."""
        return (split, part) in self.lost or not self.folder.files.exists(mark_file(split, part))

    def part_buffer(self, split: str, part: int) -> PartBuffer:
        shards = {spec.name: self.manifest.shard(spec, split) for spec in self._specs}
        images = {name: np.zeros(shard.nbytes, np.uint8) for name, shard in shards.items()}
        return PartBuffer(split, part, shards, images)

    def write_part(self, buffer: PartBuffer) -> None:
        """Write one part's files, then its row of `done`; do nothing if another writer has written it since.

        Raises StoreError, and leaves the part as it was, if the folder cannot be written, or if this writer should be
        alone and is not.
        """
        split, part = buffer.split, buffer.part
        try:
            if not self.is_missing(split, part):
                if self.alone and not self.folder.sealed:
                    raise StoreError(
                        f"{self.folder.path} is being filled by another extraction, which has just written part {part} "
                        f"of {split}: wait for it, or {SHARE}"
                    )
                return
            checksums = []
            for spec in self._specs:
                shard, image = buffer.shards[spec.name], buffer.images[spec.name]
                shard.close(image)
                checksums.append(shard.checksums(image))
                self.folder.files.write(self.manifest.shard_file(spec, split, part), image)
            layers = np.concatenate(checksums)
            row = np.array([part_mark(layers), *layers], "<u4").tobytes()
            self.folder.files.write(mark_file(split, part), row + checksum(row))
            self.lost.discard((split, part))
        except OSError as error:
            if self.folder.sealed:  # another worker wrote the part, sealed the store and removed the leftovers
                return
            raise StoreError(
                f"part {part} of {split} cannot be written to {self.folder.path}: {error.strerror or error}. "
                "Complete parts are kept: make room and run the same command again"
            ) from error

    def seal(self) -> None:
        """Check that every part is done, seal the store, and remove leftovers of killed writers."""
        if missing := self.missing_parts():
            split, part = missing[0]
            raise StoreError(
                f"{self.folder.path} lacks {len(missing)} parts, the first is part {part} of {split}, and cannot be "
                "sealed: run the same command again"
            )
        try:
            self.folder.files.write(StoreFolder.MANIFEST, self.manifest.text)
        except OSError as error:
            if not self.folder.sealed:  # else another worker sealed it at the same moment
                raise StoreError(
                    f"{self.folder.path}/{StoreFolder.MANIFEST} cannot be written: {error.strerror or error}. "
                    "Every part is complete: make room and run the same command again"
                ) from error
        sweep(self.folder)


def mark_file(split: str, part: int) -> str:
    """Return the file of a part's row of `done`, which is written after the part's other files."""
    return f"{StoreFolder.ARRAYS}/{split}/{DONE.name}/c/{part}/0"


def sweep(folder: StoreFolder) -> None:
    """Remove what a kill leaves beside a sealed store: its plan, half-written files, and locks."""
    folder.files.remove(folder.PLAN)
    remove_leftovers(folder, LOCKS, UNFINISHED)
