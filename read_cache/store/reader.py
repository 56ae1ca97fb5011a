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
from read_cache.store.layout import Layout
from read_cache.store.manifest import MANIFEST_DIGEST, Manifest, StoreFolder
from read_cache.store.quantization import Calibration
from read_cache.store.schema import (
    DONE,
    HEAD_TOKENS,
    HEAD_WEIGHT,
    PLAN_ARRAYS,
    ArraySpec,
    Form,
    activation_arrays,
    calibration_arrays,
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
    """One split of a sealed store; or, without a name, what belongs to no split."""

    def __init__(self, folder: StoreFolder, manifest: Manifest, group: zarr.Group, name: str) -> None:
        self.folder, self.manifest, self.name = folder, manifest, name
        self._group = group
        self.specs = {spec.name: spec for spec in activation_arrays(manifest.form)}
        self._checked: dict[str, Hashable] = {}

    @cached_property
    def plan(self) -> dict[str, np.ndarray]:
        """The plan arrays by name."""
        return {spec.name: self.read(spec.name) for spec in PLAN_ARRAYS}

    @cached_property
    def layout(self) -> Layout:
        """Where each example lies."""
        return Layout(self.plan["length"], self.plan["nodes"], self.plan["part_start"])

    @property
    def examples(self) -> int:
        """How many examples the split has."""
        return self.manifest.splits[self.name].examples

    @property
    def parts(self) -> int:
        """How many parts the split has."""
        return self.manifest.splits[self.name].parts

    @cached_property
    def done(self) -> np.ndarray:
        """[parts] uint32: each part's checksum."""
        return self.read(DONE.name)

    def check_files(self, arrays: Collection[str]) -> None:
        """StoreError where a file of some arrays is absent or of the wrong size, before hours of work meet it."""
        sizes = self.folder.files.sizes(f"{StoreFolder.ARRAYS}/{self.name}")
        for name in arrays:
            expected = self.shard(name).nbytes
            for part in range(self.parts):
                found = sizes.get(self.manifest.shard_file(self.specs[name], self.name, part))
                if found != expected:
                    what = "is missing" if found is None else f"has {found} bytes, expected {expected}"
                    raise StoreError(f"{self.name}/{name}, part {part} {what}. {CORRUPT}")

    def part_bytes(self, arrays: Collection[str], form: Form) -> int:
        """Bytes that a part of these arrays takes in memory, at most, with the layers of `form`."""
        total = 0
        for name in arrays:
            shard = self.shard(name)
            total += shard.stride * len(self.places(name, form.layers(name)))
        return total

    def read_part(self, part: int, arrays: Collection[str] | None = None, form: Form | None = None) -> Part:
        """One whole part: all arrays or some, of all layers or those of `form`. StoreError says what is corrupt.

        What is not asked for is not read. Local parts are views of the mapped file.
        """
        names = self.specs if arrays is None else arrays
        layers = (form or self.manifest.form).layers
        found = {name: self.read_array(name, part, layers(name)) for name in names}
        return Part(part, self.layout.examples(part), found)

    def read_array(self, name: str, part: int, layers: Layers = None) -> np.ndarray:
        """One activation array of one part: [state or layer, …], its used places only."""
        shard, places = self.shard(name), self.places(name, layers)
        where, spec = f"{self.name}/{name}, part {part}", self.specs[name]
        file = self.manifest.shard_file(spec, self.name, part)
        image = self._image(file, shard, places, where)
        whole = len(places) == shard.layers  # else it is a copy, whose file says nothing of it
        stamp = self.folder.files.stamp(file, image) if whole else None  # before a byte is touched and brought in
        if stamp is None or self._checked.get(file) != stamp:
            self._check(image, shard, places, where)
            self._checked[file] = stamp
        values = shard.view(image, len(places))
        return values[(slice(None),) * spec.axes.index(spec.flat_axis or "") + (slice(self.used_places(spec, part)),)]

    def shard(self, name: str) -> Shard:
        """The file layout of an activation array."""
        return self.manifest.shard(self.specs[name], self.name)

    def places(self, name: str, layers: Layers) -> list[int]:
        """Where `layers` lie on an array's first axis, the embeddings and the last layer always among them."""
        kept = self.manifest.form.layers(name)
        wanted = kept if layers is None else {0, *layers, kept[-1]}
        return [place for place, layer in enumerate(kept) if layer in wanted]

    def _image(self, file: str, shard: Shard, places: list[int], where: str) -> np.ndarray:
        """The file's bytes, or those of some layers one after another."""
        files, whole = self.folder.files, len(places) == shard.layers
        ranges = [(place * shard.stride, (place + 1) * shard.stride) for place in places]
        try:
            image = files.map(file) if whole else np.concatenate(files.ranges(file, ranges))
        except FileNotFoundError as error:
            raise StoreError(f"{where} is missing. {CORRUPT}") from error
        except OSError as error:
            raise StoreError(f"{where} cannot be read: {error}. {CORRUPT}") from error
        expected = shard.nbytes if whole else len(places) * shard.stride
        if len(image) != expected:
            raise StoreError(f"{where} has {len(image)} bytes, expected {expected}. {CORRUPT}")
        return image

    def _check(self, image: np.ndarray, shard: Shard, places: list[int], where: str) -> None:
        """StoreError where a layer's checksum or the file's index is wrong."""
        for layer in shard.corrupt(image, places):
            raise StoreError(f"{where} cannot be read: layer {layer}'s checksum is wrong. {CORRUPT}")
        if len(places) == shard.layers and image[-len(shard.index) :].tobytes() != shard.index:
            raise StoreError(f"{where}: its index is wrong. {CORRUPT}")

    def used_places(self, spec: ArraySpec, part: int) -> int:
        """Places of its flat axis that a part's examples take; the rest of the chunk is unused."""
        return int(self.layout.extents[spec.flat_axis or ""][self.layout.examples(part)].sum())

    def open_array(self, name: str) -> zarr.Array:
        """An array of the split by name, unchecked. StoreError where it is not there."""
        return _member(self._group, name, zarr.Array, f"{self.name}/{name}".lstrip("/"))

    def read(self, name: str) -> np.ndarray:
        """A small array, whole. StoreError says what is missing or corrupt."""
        where, array = f"{self.name}/{name}".lstrip("/"), self.open_array(name)
        if array.nchunks_initialized != array.nchunks:  # zarr reads a chunk that is not there as zeros
            raise StoreError(f"{where} has missing chunks. {CORRUPT}")
        try:
            return np.asarray(array[...])
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(f"{where} cannot be read: {error}. {CORRUPT}") from error


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
        found = self._root.attrs.get(MANIFEST_DIGEST, self.manifest.digest)  # stores of earlier versions do not say
        if found != self.manifest.digest:
            raise StoreError(
                f"{self.folder.path}/{StoreFolder.MANIFEST} is not that of the arrays beside it: it was changed, or is "
                "another store's. Put it back as it was, or remove the folder and extract the store again"
            )

    def split(self, name: str) -> SplitReader:
        """A split by name."""
        if name not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise StoreError(f"store {self.folder.path} has no split {name!r}; it has: {known}")
        return SplitReader(self.folder, self.manifest, _member(self._root, name, zarr.Group, name), name)

    @cached_property
    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """(token_ids [C] int64, weight [C, D] float32): the head's rows the store carries."""
        return self._whole.read(HEAD_TOKENS.name), self._whole.read(HEAD_WEIGHT.name)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What makes encoder states of stored values; None where they are stored as they are."""
        return read_calibration(self.folder, self.manifest)

    @property
    def _whole(self) -> SplitReader:
        """What belongs to no split."""
        return SplitReader(self.folder, self.manifest, self._root, "")


def _member(group: zarr.Group, name: str, kind: type[Member], where: str) -> Member:
    """An array or group in `group`. StoreError, which names it as `where`, if it is absent, damaged or another kind."""
    try:
        member = group.get(name)
    except UNREADABLE as error:
        raise StoreError(f"{where} cannot be opened: {error}; remove the store and extract it again") from error
    if not isinstance(member, kind):
        raise StoreError(f"{where} is missing from the store; remove the store and extract it again")
    return member


def read_calibration(folder: StoreFolder, manifest: Manifest) -> Calibration | None:
    """The calibration of a store, planned or sealed; None where it needs none."""
    specs = calibration_arrays(manifest.form)
    if not specs:
        return None
    whole = SplitReader(folder, manifest, folder.files.group(StoreFolder.ARRAYS, "r"), "")
    return Calibration(**{spec.name.rpartition("/")[2]: whole.read(spec.name) for spec in specs})


def array_bytes(manifest: Manifest) -> dict[str, int]:
    """Bytes of each activation array's files over all splits."""
    sizes: dict[str, int] = {}
    for split, info in manifest.splits.items():
        for spec in activation_arrays(manifest.form):
            sizes[spec.name] = sizes.get(spec.name, 0) + info.parts * manifest.shard(spec, split).nbytes
    return sizes
