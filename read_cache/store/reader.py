"""Reading a sealed store: small arrays at once, activations one whole part at a time.

A part's file is mapped, its layers' checksums are compared, and what is handed out is a view of the mapping. A file
that a reader has checked is not checked again while it is unchanged and all of it has stayed in memory.
"""

import dataclasses
from collections.abc import Collection, Hashable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import zarr

from read_cache.errors import StoreError
from read_cache.store.folder import ACTIVATIONS_DIGEST, StoreFolder
from read_cache.store.layout import Layout
from read_cache.store.manifest import Manifest, plan_digests
from read_cache.store.quantization import Calibration
from read_cache.store.schema import (
    DONE,
    HEAD_TOKENS,
    HEAD_WEIGHT,
    ArraySpec,
    Format,
    activation_arrays,
    calibration_arrays,
    plan_arrays,
)
from read_cache.store.shard import Shard

Member = TypeVar("Member", zarr.Array, zarr.Group)
Layers = Collection[int] | None
"""Numbers of the backbone's layers, from 1; None is all that the store holds."""
UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""What zarr raises where its own files are absent or damaged."""
CORRUPT = "The store is corrupt: read-cache verify lists every bad chunk"


@dataclasses.dataclass(frozen=True)
class Part:
    """One part: its activations by array name, [state or layer, (head,) places, (width)].

    Hidden states are float32, uint16 holding the bits of bfloat16, or int8; see `store/schema.py`.
    """

    number: int
    examples: slice
    arrays: dict[str, np.ndarray]


class SplitReader:
    """One split of a sealed store; or, without a name, the arrays that belong to no split."""

    def __init__(self, folder: StoreFolder, manifest: Manifest, group: zarr.Group, name: str) -> None:
        self.folder, self.manifest, self.name = folder, manifest, name
        self._group = group
        self.specs = {spec.name: spec for spec in activation_arrays(manifest.backbone, manifest.format)}
        self._checked: dict[str, Hashable] = {}

    @cached_property
    def plan(self) -> dict[str, np.ndarray]:
        """The plan arrays by name."""
        return {spec.name: self.read(spec.name) for spec in plan_arrays(self.manifest.backbone)}

    @cached_property
    def layout(self) -> Layout:
        """Where each example lies."""
        stacks = self.manifest.backbone.stacks
        lengths = {stack.name: self.plan[f"{stack.name}/length"] for stack in stacks}
        return Layout(stacks, lengths, self.plan["part_start"])

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.manifest.splits[self.name].examples

    @property
    def parts(self) -> int:
        """Number of parts."""
        return self.manifest.splits[self.name].parts

    @cached_property
    def done(self) -> np.ndarray:
        """[parts, 1 + layers of all arrays] uint32: each part's mark, then its layers' checksums."""
        return self.read(DONE.name)

    def sealed_checksums(self, name: str, part: int) -> np.ndarray:
        """Return the checksums of an array's layers in one part as they were when the part was written, [layers]."""
        start = 1 + checksum_columns(self.manifest)[0][name]
        return self.done[part, start : start + self.shard(name).layers]

    def check_files(self, arrays: Collection[str]) -> None:
        """Raise StoreError if a file of some arrays is absent or has the wrong size."""
        sizes = self.folder.files.sizes(f"{StoreFolder.ARRAYS}/{self.name}")
        for name in arrays:
            expected = self.shard(name).nbytes
            for part in range(self.parts):
                found = sizes.get(self.manifest.shard_file(self.specs[name], self.name, part))
                if found != expected:
                    what = "is missing" if found is None else f"has {found} bytes, expected {expected}"
                    raise StoreError(f"{self.name}/{name}, part {part} {what}. {CORRUPT}")

    def part_bytes(self, arrays: Collection[str], format: Format) -> int:
        """Return the most bytes that a part of these arrays takes in memory, with the layers of `format`."""
        total = 0
        for name in arrays:
            shard = self.shard(name)
            total += shard.stride * len(self.places(name, format.array_layers(name)))
        return total

    def read_part(self, part: int, arrays: Collection[str] | None = None, format: Format | None = None) -> Part:
        """Return one part: all arrays or some, of all layers or those of `format`. Raises StoreError for corrupt files.

        Other arrays and layers are not read. Local parts are views of the mapped file.
        """
        names = self.specs if arrays is None else arrays
        layers = (format or self.manifest.format).array_layers
        found = {name: self.read_array(name, part, layers(name)) for name in names}
        return Part(part, self.layout.examples(part), found)

    def read_array(self, name: str, part: int, layers: Layers = None) -> np.ndarray:
        """Return one activation array of one part, [state or layer, …], without the unused end of its flat axis."""
        shard, places = self.shard(name), self.places(name, layers)
        where, spec = f"{self.name}/{name}, part {part}", self.specs[name]
        file = self.manifest.shard_file(spec, self.name, part)
        image = self._image(file, shard, places, where)
        whole = len(places) == shard.layers  # else it is a copy, whose file says nothing of it
        stamp = self.folder.files.stamp(file, image) if whole else None  # before a byte is touched and brought in
        if stamp is None or self._checked.get(file) != stamp:
            self._check(image, shard, places, where)
            if not np.array_equal(shard.checksums(image, len(places)), self.sealed_checksums(name, part)[places]):
                raise StoreError(f"{where} is intact but is not the file that was sealed. {CORRUPT}")
            self._checked[file] = stamp
        values = shard.view(image, len(places))
        return values[(slice(None),) * spec.axes.index(spec.flat_axis or "") + (slice(self.used_places(spec, part)),)]

    def shard(self, name: str) -> Shard:
        """Return the file layout of an activation array."""
        return self.manifest.shard(self.specs[name], self.name)

    def places(self, name: str, layers: Layers) -> list[int]:
        """Return the indices of `layers` on an array's first axis; embeddings and last layer are always included."""
        kept = self.manifest.format.array_layers(name)
        wanted = kept if layers is None else {0, *layers, kept[-1]}
        return [place for place, layer in enumerate(kept) if layer in wanted]

    def _image(self, file: str, shard: Shard, places: list[int], where: str) -> np.ndarray:
        """Return the file's bytes, or those of some layers one after another."""
        files, whole = self.folder.files, len(places) == shard.layers
        ranges = [(place * shard.stride, (place + 1) * shard.stride) for place in places]
        try:
            image = files.map(file) if whole else np.concatenate(files.ranges(file, ranges))
        except FileNotFoundError as error:
            raise StoreError(f"{where} is missing. {CORRUPT}") from error
        except OSError as error:
            raise StoreError(f"{where} cannot be read: {str(error).rstrip('.')}. {CORRUPT}") from error
        expected = shard.nbytes if whole else len(places) * shard.stride
        if len(image) != expected:
            raise StoreError(f"{where} has {len(image)} bytes, expected {expected}. {CORRUPT}")
        return image

    def _check(self, image: np.ndarray, shard: Shard, places: list[int], where: str) -> None:
        """Raise StoreError if a layer's checksum or the file's index is wrong."""
        for layer in shard.corrupt(image, places):
            raise StoreError(f"{where} cannot be read: layer {layer}'s checksum is wrong. {CORRUPT}")
        if len(places) == shard.layers and image[-len(shard.index) :].tobytes() != shard.index:
            raise StoreError(f"{where}: its index is wrong. {CORRUPT}")

    def used_places(self, spec: ArraySpec, part: int) -> int:
        """Return the entries of its flat axis that a part's examples take; the rest of the chunk is unused."""
        return int(self.layout.extents[spec.flat_axis or ""][self.layout.examples(part)].sum())

    def open_array(self, name: str) -> zarr.Array:
        """Return an array of the split by name, unchecked. Raises StoreError if it is missing."""
        return _member(self._group, name, zarr.Array, f"{self.name}/{name}".lstrip("/"))

    def read(self, name: str) -> np.ndarray:
        """Return a small array. Raises StoreError if it is missing or corrupt."""
        where, array = f"{self.name}/{name}".lstrip("/"), self.open_array(name)
        if array.nchunks_initialized != array.nchunks:  # zarr reads a chunk that is not there as zeros
            raise StoreError(f"{where} has missing chunks. {CORRUPT}")
        try:
            return np.asarray(array[...])
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(f"{where} cannot be read: {str(error).rstrip('.')}. {CORRUPT}") from error


def checksum_columns(manifest: Manifest) -> tuple[dict[str, int], int]:
    """Return ({array: index of its first checksum}, number of checksums) of a part, in the schema's order."""
    starts, total = {}, 0
    for spec in activation_arrays(manifest.backbone, manifest.format):
        starts[spec.name] = total
        total += len(manifest.format.array_layers(spec.name))
    return starts, total


class StoreReader:
    """A sealed store. Raises StoreError for anything else."""

    def __init__(self, path: str | Path | StoreFolder) -> None:
        self.folder = path if isinstance(path, StoreFolder) else StoreFolder(path)
        self.manifest = self.folder.read_manifest()
        try:
            self._root = self.folder.files.group(StoreFolder.ARRAYS, "r")
        except UNREADABLE as error:
            where = f"{self.folder.path}/{StoreFolder.ARRAYS}"
            raise StoreError(f"{where} cannot be opened: {error}; remove the store and extract it again") from error
        if self._root.attrs.get(ACTIVATIONS_DIGEST) != self.manifest.activations_digest:
            raise StoreError(
                f"{self.folder.path}/{StoreFolder.MANIFEST} does not belong to the arrays beside it: it was changed, "
                "or comes from another store. Restore it, or remove the folder and extract the store again"
            )

    def check_plan(self) -> None:
        """Raise StoreError if tokens or labels are not those that the manifest was sealed with."""
        plans = {name: self.split(name).plan for name in self.manifest.splits}
        expected = self.manifest.activations.tokens_digest, self.manifest.task_record.labels_digest
        for found, digest, what in zip(
            plan_digests(plans, self.manifest.task.labels), expected, ("tokens", "labels"), strict=True
        ):
            if found != digest:
                raise StoreError(f"{self.folder.path}: its {what} were changed after it was sealed. {CORRUPT}")

    def split(self, name: str) -> SplitReader:
        """Return a split by name. Raises StoreError if there is none."""
        if name not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise StoreError(f"store {self.folder.path} has no split {name!r}; it has: {known}")
        return SplitReader(self.folder, self.manifest, _member(self._root, name, zarr.Group, name), name)

    @cached_property
    def head(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(token_ids [C] int64, weight [C, D] float32): the LM head's rows; None for a backbone without an LM head."""
        if not self.manifest.backbone.language_model:
            return None
        return self._whole.read(HEAD_TOKENS.name), self._whole.read(HEAD_WEIGHT.name)

    @cached_property
    def final_norm(self) -> dict[str, np.ndarray]:
        """By stack that has one: weight of the norm after its last block, [D] float32."""
        names = [stack.name for stack in self.manifest.backbone.stacks if stack.final_norm]
        return {name: self._whole.read(f"final_norm/{name}") for name in names}

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration of the first stack's states; None where whole states are stored."""
        return read_calibration(self.folder, self.manifest)

    @property
    def _whole(self) -> SplitReader:
        """Reader of the arrays that belong to no split."""
        return SplitReader(self.folder, self.manifest, self._root, "")


def _member(group: zarr.Group, name: str, kind: type[Member], where: str) -> Member:
    """Return an array or group in `group`. Raises StoreError, which names `where`, if it is absent or damaged."""
    try:
        member = group.get(name)
    except UNREADABLE as error:
        raise StoreError(f"{where} cannot be opened: {error}; remove the store and extract it again") from error
    if not isinstance(member, kind):
        raise StoreError(f"{where} is missing from the store; remove the store and extract it again")
    return member


def read_calibration(folder: StoreFolder, manifest: Manifest) -> Calibration | None:
    """Return the calibration of a store, planned or sealed; None if it has none."""
    specs = calibration_arrays(manifest.format)
    if not specs:
        return None
    whole = SplitReader(folder, manifest, folder.files.group(StoreFolder.ARRAYS, "r"), "")
    return Calibration(**{spec.name.rpartition("/")[2]: whole.read(spec.name) for spec in specs})


def array_bytes(manifest: Manifest) -> dict[str, int]:
    """Return the bytes of each activation array's files over all splits."""
    sizes: dict[str, int] = {}
    for split, info in manifest.splits.items():
        for spec in activation_arrays(manifest.backbone, manifest.format):
            sizes[spec.name] = sizes.get(spec.name, 0) + info.parts * manifest.shard(spec, split).nbytes
    return sizes
