"""Reading a sealed store: small arrays at once, activations one whole part at a time.

A part's file is read a layer at a time, and each layer's checksum is compared while the processor's cache holds it. It
is not compared again while no program changes the file. A memory map would end the process with SIGBUS if another
program cut the file.
"""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

import numpy as np
import zarr

from read_cache.errors import StoreError
from read_cache.store.arrays import CORRUPT, open_member, open_root, read_small
from read_cache.store.folder import StoreFolder
from read_cache.store.layout import Layout
from read_cache.store.manifest import Manifest, agree, plan_digests
from read_cache.store.schema import (
    DONE,
    HEAD_TOKENS,
    HEAD_WEIGHT,
    Calibration,
    Format,
    activation_arrays,
    calibration_arrays,
    plan_arrays,
)
from read_cache.store.shard import Shard
from read_cache.watch import Watch

Layers = Collection[int] | None
"""Numbers of the backbone's layers, from 1; None is all that the store holds."""


class SplitReader:
    """One split of a sealed store."""

    def __init__(self, folder: StoreFolder, manifest: Manifest, group: zarr.Group, name: str) -> None:
        self.folder, self.manifest, self.name = folder, manifest, name
        self._group = group
        self._checked: dict[tuple[str, tuple[int, ...]], tuple[int, ...] | None] = {}
        """By file and layers: the file's stamp when the checksums of these layers were right."""
        self.specs = {spec.name: spec for spec in activation_arrays(manifest.backbone, manifest.format)}

    @cached_property
    def plan(self) -> dict[str, np.ndarray]:
        """The plan arrays by name."""
        return {spec.name: self.read(spec.name) for spec in plan_arrays(self.manifest.backbone, self.manifest.format)}

    @cached_property
    def layout(self) -> Layout:
        """The parts of this split: which examples each holds, and how many positions each example has."""
        stacks, kind_of = self.manifest.backbone.stacks, self.manifest.format.state_axis
        lengths = {stack.name: self.plan[f"{stack.name}/length"] for stack in stacks}
        axes = [(stack.name, kind_of(stack.causal)) for stack in stacks if kind_of(stack.causal) != "token"]
        selected = {f"{name}_{kind}": self.plan[f"{name}/{kind}_length"] for name, kind in axes}
        return Layout(stacks, lengths, self.plan["part_start"], selected)

    @property
    def examples(self) -> int:
        return self.manifest.splits[self.name].examples

    @property
    def parts(self) -> int:
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
                file = self.file(name, part)
                if file not in sizes:
                    raise StoreError(f"{file} is missing. {CORRUPT}")
                if sizes[file] != expected:
                    raise StoreError(f"{file} has {sizes[file]} bytes, expected {expected}. {CORRUPT}")

    def read_part(
        self, part: int, arrays: Collection[str] | None = None, format: Format | None = None
    ) -> dict[str, np.ndarray]:
        """Return one part's activations by array name, [state or layer, (head,) places, (width)].

        All arrays are read or some, of all layers or those of `format`. Hidden states are float32, uint16 holding the
        bits of bfloat16, or int8; see `store/schema.py`. Raises StoreError for corrupt files.
        """
        names = self.specs if arrays is None else arrays
        layers = (format or self.manifest.format).array_layers
        return {name: self.read_array(name, part, layers(name)) for name in names}

    def read_array(self, name: str, part: int, layers: Layers = None) -> np.ndarray:
        """Return one activation array of one part, [state or layer, …], without the unused end of its flat axis."""
        spec, shard, places = self.specs[name], self.shard(name), self.places(name, layers)
        try:
            image = self._read_layers(name, part, shard, places)
        except StoreError:
            if not self.folder.files.forget(self.file(name, part)):
                raise
            image = self._read_layers(name, part, shard, places)
        used = int(self.layout.extents[spec.flat_axis or ""][self.layout.examples(part)].sum())
        values = shard.view(image, len(places))
        return values[(slice(None),) * spec.axes.index(spec.flat_axis or "") + (slice(used),)]

    def _read_layers(self, name: str, part: int, shard: Shard, places: list[int]) -> np.ndarray:
        """Return the bytes of some layers one after another, [bytes] uint8. Raises StoreError if one is corrupt."""
        file, image, wrong = self.file(name, part), np.empty(len(places) * shard.stride, np.uint8), []
        stamp, key = self.folder.files.stamp(file), (file, tuple(places))
        known = stamp is not None and stamp == self._checked.get(key)
        index = np.empty(len(shard.index) + 1, np.uint8)  # a file that is too long fills the last byte
        layers = image.reshape(len(places), shard.stride)
        pieces = [(place * shard.stride, layer) for place, layer in zip(places, layers, strict=True)]
        if len(places) == shard.layers:
            pieces.append((shard.layers * shard.stride, index))
        try:
            for (start, piece), count in zip(pieces, self.folder.files.read_into(file, pieces), strict=True):
                expected = len(shard.index) if piece is index else len(piece)
                if count != expected:
                    size = f"{start + count} bytes" if count < expected else "more bytes"
                    raise StoreError(f"{file} has {size}, expected {shard.nbytes}. {CORRUPT}")
                if piece is not index and not known and shard.corrupt(piece):
                    wrong.append(self.manifest.format.array_layers(name)[start // shard.stride])
        except FileNotFoundError as error:
            raise StoreError(f"{file} is missing. {CORRUPT}") from error
        except OSError as error:
            raise StoreError(f"{file} cannot be read: {str(error).rstrip('.')}. {CORRUPT}") from error
        if wrong:
            raise StoreError(f"{file}: the checksum of layer {', '.join(map(str, wrong))} is wrong. {CORRUPT}")
        if len(places) == shard.layers and index[:-1].tobytes() != shard.index:
            raise StoreError(f"{file}: its index is wrong. {CORRUPT}")
        if not np.array_equal(shard.checksums(image, len(places)), self.sealed_checksums(name, part)[places]):
            raise StoreError(f"{file} is intact but is not the file that was sealed. {CORRUPT}")
        self._checked[key] = stamp
        return image

    def shard(self, name: str) -> Shard:
        """Return the file layout of an activation array."""
        return self.manifest.shard(self.specs[name], self.name)

    def file(self, name: str, part: int) -> str:
        """Return the file of one part of an activation array, relative to the store's folder."""
        return self.manifest.shard_file(self.specs[name], self.name, part)

    def places(self, name: str, layers: Layers) -> list[int]:
        """Return the indices of `layers` on an array's first axis; embeddings and last layer are always included."""
        kept = self.manifest.format.array_layers(name)
        wanted = kept if layers is None else {0, *layers, kept[-1]}
        return [place for place, layer in enumerate(kept) if layer in wanted]

    def read(self, name: str) -> np.ndarray:
        """Return a small array of the split. Raises StoreError if it is missing or corrupt."""
        return read_small(self.folder, self._group, name)

    def open_array(self, name: str) -> zarr.Array:
        """Return an array of the split by name, unchecked. Raises StoreError if it is missing."""
        return open_member(self.folder, self._group, name, zarr.Array)


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
        self._root = open_root(self.folder)

    def __repr__(self) -> str:
        manifest = self.manifest
        rows = ", ".join(f"{name} {split.examples:,}" for name, split in manifest.splits.items())
        size = sum(array_bytes(manifest).values())
        return (
            f"StoreReader({self.folder.path!r}: task {manifest.task.name}, backbone {manifest.backbone.name}; "
            f"rows: {rows}; {size / 1e6:,.1f} MB)"
        )

    def push(self, url: str | Path, *, private: bool | None = None, watch: Watch = Watch()) -> "StoreReader":
        """Copy the store to another folder or URL, such as s3://bucket/store or hf://datasets/owner/name.

        Returns the copy. Its manifest is written last; if the copy is interrupted, the same call continues it. A
        dataset or bucket of the hub is made if there is none, `private` or as its owner's settings have it. `watch`
        is called with the progress in bytes. Raises UserError if the target holds another store or cannot be written.
        """
        from read_cache.store.push import push_store

        return StoreReader(push_store(self.folder, self.manifest, str(url), private, watch))

    def check_plan(self) -> None:
        """Raise StoreError if tokens or labels are not those that the manifest was sealed with."""
        plans = {name: self.split(name).plan for name in self.manifest.splits}
        tokens, labels = plan_digests(plans, self.manifest.task.labels)
        paths = all(agree(self.manifest, plan) for plan in plans.values())
        if self.head is not None and self.manifest.trie is not None:
            paths = paths and np.array_equal(self.head[0], self.manifest.trie.tokens)
        for what, same in (
            ("tokens", tokens == self.manifest.activations.tokens_digest),
            ("labels", labels == self.manifest.task_record.labels_digest and paths),
        ):
            if not same:
                raise StoreError(f"{self.folder.path}: its {what} were changed after it was sealed. {CORRUPT}")

    def split(self, name: str) -> SplitReader:
        """Return a split by name. Raises StoreError if there is none."""
        if name not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise StoreError(f"store {self.folder.path} has no split {name!r}; it has: {known}")
        return SplitReader(self.folder, self.manifest, open_member(self.folder, self._root, name, zarr.Group), name)

    def read(self, name: str) -> np.ndarray:
        """Return an array that belongs to no split. Raises StoreError if it is missing or corrupt."""
        return read_small(self.folder, self._root, name)

    @cached_property
    def head(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(token_ids [C] int64, weight [C, D] float32): the LM head's rows; None for a backbone without an LM head."""
        if not self.manifest.backbone.language_model:
            return None
        return self.read(HEAD_TOKENS.name), self.read(HEAD_WEIGHT.name)

    @cached_property
    def final_norm(self) -> dict[str, np.ndarray]:
        """By stack that has one: weight of the norm after its last block, [D] float32."""
        names = [stack.name for stack in self.manifest.backbone.stacks if stack.final_norm]
        return {name: self.read(f"final_norm/{name}") for name in names}

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration of the first stack's states; None where whole states are stored."""
        return read_calibration(self.folder, self.manifest)


def read_calibration(folder: StoreFolder, manifest: Manifest) -> Calibration | None:
    """Return the calibration of a store, planned or sealed; None if it has none."""
    names = [spec.name for spec in calibration_arrays(manifest.format)]
    if not names:
        return None
    root = open_root(folder)
    return Calibration(**{name.rpartition("/")[2]: read_small(folder, root, name) for name in names})


def array_bytes(manifest: Manifest) -> dict[str, int]:
    """Return the bytes of each activation array's files over all splits."""
    sizes: dict[str, int] = {}
    for split, info in manifest.splits.items():
        for spec in activation_arrays(manifest.backbone, manifest.format):
            sizes[spec.name] = sizes.get(spec.name, 0) + info.parts * manifest.shard(spec, split).nbytes
    return sizes
