"""Reading a sealed store: small arrays at once, activations one whole part at a time."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr

from read_cache.errors import StoreError
from read_cache.store.layout import Layout
from read_cache.store.manifest import Manifest, StoreFolder
from read_cache.store.schema import (
    DONE,
    HEAD_TOKENS,
    HEAD_WEIGHT,
    PLAN_ARRAYS,
    ArraySpec,
    activation_arrays,
)

Member = TypeVar("Member", zarr.Array, zarr.Group)


@dataclasses.dataclass(frozen=True)
class Part:
    """One part in memory: its activations by array name, [state or layer, (head,) places, (width)].

    Hidden states are float32, or uint16 holding the bits of bfloat16.
    """

    number: int
    examples: slice
    arrays: dict[str, np.ndarray]


class SplitReader:
    """One split of a sealed store; or, without a name, what belongs to no split."""

    def __init__(self, manifest: Manifest, group: zarr.Group, name: str) -> None:
        self.manifest, self.name = manifest, name
        self._group = group
        self._arrays: dict[str, zarr.Array] = {}
        self.specs = activation_arrays(manifest.dtype, manifest.attention)

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

    def read_part(self, part: int) -> Part:
        """Decode one whole part. StoreError names the chunk that is missing or corrupt."""
        examples = self.layout.examples(part)
        arrays = {spec.name: self.read_array(spec, part) for spec in self.specs}
        return Part(part, examples, arrays)

    def read_array(self, spec: ArraySpec, part: int, states: slice = slice(None)) -> np.ndarray:
        """One activation array of one part: its used places only, of all states or layers or of some."""
        assert spec.flat_axis
        axis = spec.axes.index(spec.flat_axis)
        start = part * self.manifest.splits[self.name].chunk[spec.flat_axis]
        place = slice(start, start + self.used_places(spec, part))
        return self.read(spec.name, (states, *(slice(None),) * (axis - 1), place), part)

    def used_places(self, spec: ArraySpec, part: int) -> int:
        """Places of its flat axis that a part's examples take; the rest of the chunk is unused."""
        return int(self.layout.extents[spec.flat_axis or ""][self.layout.examples(part)].sum())

    def read(self, name: str, selection: Any = ..., part: int | None = None) -> np.ndarray:
        """An array, or a place of it. StoreError says what is missing or corrupt."""
        where = self._where(name) + ("" if part is None else f", part {part}")
        try:
            return np.asarray(self._array(name)[selection])
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(
                f"{where} cannot be read: {error}. The store is corrupt: read-cache verify lists every bad chunk"
            ) from error

    def open_array(self, name: str) -> zarr.Array:
        """An array of the split by name, unchecked. StoreError where it is not there."""
        return _member(self._group, name, zarr.Array, self._where(name))

    def _where(self, name: str) -> str:
        return f"{self.name}/{name}".lstrip("/")

    def _array(self, name: str) -> zarr.Array:
        """An array of the split, checked once to be whole: zarr reads a chunk that is not there as zeros."""
        if name not in self._arrays:
            array = self.open_array(name)
            if array.nchunks_initialized != array.nchunks:
                raise StoreError(
                    f"{self._where(name)} has missing chunks. The store is corrupt: read-cache verify lists them"
                )
            self._arrays[name] = array
        return self._arrays[name]


class StoreReader:
    """A sealed store. Raises StoreError for anything else."""

    def __init__(self, path: Path | StoreFolder) -> None:
        self.folder = path if isinstance(path, StoreFolder) else StoreFolder(path)
        self.manifest = self.folder.read_manifest()
        try:
            self._root = zarr.open_group(self.folder.arrays, mode="r")
        except Exception as error:
            raise StoreError(f"{self.folder.arrays} cannot be opened: {error}; extract the store again") from error

    def split(self, name: str) -> SplitReader:
        """A split by name."""
        if name not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise StoreError(f"store {self.folder.path} has no split {name!r}; it has: {known}")
        return SplitReader(self.manifest, _member(self._root, name, zarr.Group, name), name)

    @cached_property
    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """(token_ids [C] int64, weight [C, D] float32): the head's rows the store carries."""
        arrays = SplitReader(self.manifest, self._root, "")
        return arrays.read(HEAD_TOKENS.name), arrays.read(HEAD_WEIGHT.name)


def _member(group: zarr.Group, name: str, kind: type[Member], where: str) -> Member:
    """An array or group in `group`. StoreError, which names it as `where`, if it is absent, damaged or another kind."""
    try:
        member = group.get(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{where} cannot be opened: {error}; extract the store again") from error
    if not isinstance(member, kind):
        raise StoreError(f"{where} is missing from the store; extract it again")
    return member


def array_bytes(manifest: Manifest) -> dict[str, int]:
    """Bytes on disk of each activation array over all splits, crc32c apart."""
    sizes: dict[str, int] = {}
    for split in manifest.splits:
        for spec in activation_arrays(manifest.dtype, manifest.attention):
            states = manifest.layers(spec.name) + (spec.axes[0] == "state")
            count = states * int(np.prod([manifest.axis_size(axis, split) for axis in spec.axes[1:]], dtype=np.int64))
            sizes[spec.name] = sizes.get(spec.name, 0) + count * np.dtype(spec.dtype).itemsize
    return sizes
