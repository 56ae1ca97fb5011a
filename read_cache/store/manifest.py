"""A store's folder and its states.

absent   no plan.json, no manifest.json
begun    plan.json: what the store will be is settled; whoever wants another one here is refused
planned  arrays.zarr/zarr.json besides, the last of what is decided before the first part: parts may be missing
sealed   manifest.json: the plan under its last name; its existence means the store is complete
"""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from read_cache.errors import StoreError
from read_cache.layers import format_layers
from read_cache.store.files import is_remote, open_files
from read_cache.store.schema import SCHEMA_VERSION, ArraySpec, ComputeDtype, Form, with_tuples
from read_cache.store.shard import Shard
from read_cache.tasks import TASKS, Task
from read_cache.trie import LabelTrie

SPLITS = ("train", "validation", "test")
MANIFEST_DIGEST = "manifest_digest"
"""The attribute of the arrays' root group that says which manifest they are of."""


@dataclasses.dataclass(frozen=True)
class BackboneInfo:
    """What the store must know of the backbone; `digest` is what binds stores and networks to it."""

    name: str
    revision: str
    digest: str
    """sha256 over the weights files and the configuration."""
    model_type: str
    width: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    parameters: int


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """Sizes of one split."""

    examples: int
    parts: int
    tokens: int
    nodes: int
    chunk: dict[str, int]
    """Places of one part on each flat axis."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything that decides a store's bytes, and nothing else: no clock times, no machine names."""

    backbone: BackboneInfo
    tokenizer_digest: str
    task: Task
    label_ids: tuple[tuple[int, ...], ...]
    """Tokens of each label, eos last; empty for an open target."""
    dataset: str
    fingerprint: str
    """`fingerprint` of every split: rows, tokens, labels, order."""
    splits: dict[str, SplitInfo]
    form: Form
    compute_dtype: ComputeDtype
    head: str
    """`labels`: the head's rows for the label tokens. `full`: all rows."""
    max_source_length: int
    seed: int
    part_tokens: int
    batch_tokens: int
    made_with: dict[str, str]
    """Versions of the libraries that computed the activations."""
    schema_version: int = SCHEMA_VERSION

    @property
    def trie(self) -> LabelTrie | None:
        """The label trie; None for an open target."""
        return LabelTrie(self.label_ids) if self.label_ids else None

    @property
    def digest(self) -> str:
        """sha256 of the manifest's JSON: what binds a network to the store that trained it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def shard(self, spec: ArraySpec, split: str) -> Shard:
        """The file layout of one part of an activation array."""
        sizes = {"width": self.backbone.width, "component": self.form.rank, "head": self.backbone.heads}
        sizes |= self.splits[split].chunk
        return Shard(len(self.form.layers(spec.name)), tuple(sizes[axis] for axis in spec.axes[1:]), spec.dtype)

    def shard_file(self, spec: ArraySpec, split: str, part: int) -> str:
        """The file of one part of an activation array in the store's folder, as Zarr names it."""
        place = [str(part) if axis == spec.flat_axis else "0" for axis in spec.axes]
        return f"arrays.zarr/{split}/{spec.name}/c/{'/'.join(place)}"

    def command(self, store: str) -> str:
        """The command that makes this store, but for options that no manifest holds."""
        options: dict[str, object] = {"model": self.backbone.name, "task": self.task.name, "store": store}
        if self.task != TASKS.get(self.task.name):
            options["task"] = f"{self.task.name}.toml"
        if self.dataset not in ("bundled", f"nyu-mll/glue/{self.task.name}"):
            options["dataset"] = self.dataset
        form = self.form
        options |= {"dtype": form.dtype, "compute-dtype": self.compute_dtype, "attention": form.attention}
        options |= {"attention-dtype": form.attention_dtype, "rank": form.rank}
        kept = tuple(sorted({*form.encoder_layers, *form.decoder_layers}))
        if len(kept) < max(self.backbone.encoder_layers, self.backbone.decoder_layers):
            options["layers"] = format_layers(kept)
        shown = ("max_source_length", "seed", "part_tokens", "batch_tokens")
        options |= {name.replace("_", "-"): getattr(self, name) for name in shown}
        return "read-cache extract " + " ".join(
            f"--{name} {shlex.quote(str(value))}" for name, value in options.items()
        )

    def to_json(self) -> str:
        """Stable text: sorted keys, two spaces, a newline at the end."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def parse(text: bytes, where: str) -> "Manifest":
        """Read what `to_json` wrote. Raises StoreError, which names `where`, for another schema or a damaged file."""
        try:
            values: dict[str, Any] = json.loads(text)
            found = int(values["schema_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{where} is damaged ({error!r}); remove the store and extract it again") from error
        if found != SCHEMA_VERSION:
            age = "newer" if found > SCHEMA_VERSION else "older"
            again = "extract the store again, into another folder or after removing this one"
            remedy = "update read-cache" if found > SCHEMA_VERSION else again
            raise StoreError(f"{where} has schema version {found}, {age} than this code's {SCHEMA_VERSION}: {remedy}")
        try:
            task, splits, form = values.pop("task"), values.pop("splits"), values.pop("form")
            return Manifest(
                backbone=BackboneInfo(**values.pop("backbone")),
                task=Task(**{**task, "labels": tuple(task["labels"])}),
                label_ids=tuple(tuple(ids) for ids in values.pop("label_ids")),
                splits={name: SplitInfo(**splits[name]) for name in SPLITS if name != "test" or name in splits},
                form=Form(**with_tuples(form)),
                **values,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{where} is damaged ({error}); remove the store and extract it again") from error


def fingerprint(plan_arrays: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """sha256 over the plan arrays, by split, then by name."""
    digest = hashlib.sha256()
    for split, arrays in sorted(plan_arrays.items()):
        for name, values in sorted(arrays.items()):
            digest.update(f"{split}/{name}{values.shape}{values.dtype}".encode() + values.tobytes())
    return digest.hexdigest()


class StoreFolder:
    """A store's place: a folder, or a URL that fsspec opens."""

    PLAN, MANIFEST, ARRAYS = "plan.json", "manifest.json", "arrays.zarr"
    ROOT = f"{ARRAYS}/zarr.json"

    def __init__(self, path: str | Path) -> None:
        self.path = str(path).rstrip("/") if is_remote(path) else str(Path(path))
        self.files = open_files(path)

    @property
    def sealed(self) -> bool:
        """Whether the store is complete."""
        return self.files.exists(self.MANIFEST)

    @property
    def begun(self) -> bool:
        """Whether the store was begun, planned or not, and is not complete."""
        return not self.sealed and self.files.exists(self.PLAN)

    @property
    def planned(self) -> bool:
        """Whether parts of the store can be written, and it is not complete."""
        return self.begun and self.files.exists(self.ROOT)

    def read_manifest(self) -> Manifest:
        """The manifest of a sealed store; StoreError says how to make or finish one."""
        if self.sealed:
            return self._read(self.MANIFEST)
        if plan := self.read_plan():
            raise StoreError(
                f"store {self.path} is not complete: its extraction was interrupted. Finish it with\n"
                f"  {plan.command(self.path)}\n"
                "and --max-examples, --revision or --device, where it was begun with them"
            )
        raise StoreError(f"no store at {self.path}: make one with read-cache extract --store {self.path}")

    def read_plan(self) -> Manifest | None:
        """The manifest of a store that was begun, or None."""
        return self._read(self.PLAN) if self.files.exists(self.PLAN) else None

    def _read(self, name: str) -> Manifest:
        try:
            text = self.files.read(name)
        except OSError as error:
            raise StoreError(f"{self.path}/{name} cannot be read: {error.strerror or error}") from error
        return Manifest.parse(text, f"{self.path}/{name}")

    def begin(self, manifest: Manifest) -> None:
        """Settle what the store will be. StoreError where another was begun here, or something else lies here."""
        if self.files.sizes(self.ARRAYS) and not (self.begun or self.sealed):
            raise StoreError(
                f"{self.path}/{self.ARRAYS} lies there without {self.PLAN} or {self.MANIFEST}, which would say what it "
                "holds: give another --store, or remove it"
            )
        same = self.files.settle(self.PLAN, manifest.to_json().encode())
        if self.sealed:
            self.files.remove(self.PLAN)
            raise StoreError(f"another extraction has just completed {self.path}: run the same command again")
        if not same:
            raise StoreError(
                f"another extraction, with other settings or rows, has just begun {self.path}: give another --store"
            )

    def seal(self, manifest: Manifest) -> None:
        """Make the store sealed, at once: the same text under its last name."""
        self.files.write(self.MANIFEST, manifest.to_json().encode())
        self.files.remove(self.PLAN)


def find_unfinished(path: str | Path) -> list[StoreFolder]:
    """Every store below `path` that was begun and is not complete, sorted: what `find_stores` leaves out."""
    folder = StoreFolder(path)
    if folder.sealed:
        return []  # a store holds no other, and may hold thousands of files
    found = [StoreFolder(f"{folder.path}/{below}") for below in folder.files.find(StoreFolder.PLAN)]
    return [one for one in found if one.begun]


def find_stores(path: str | Path) -> list[StoreFolder]:
    """The store at `path`, or every sealed store below it, sorted; StoreError where there is none."""
    folder = StoreFolder(path)
    if folder.sealed or folder.begun:
        folder.read_manifest()
        return [folder]
    found = [StoreFolder(f"{folder.path}/{below}") for below in folder.files.find(StoreFolder.MANIFEST)]
    if not found:
        if not folder.files.exists(""):
            folder.read_manifest()
        raise StoreError(f"no finished store in {path}: make one with read-cache extract --store {path}/NAME")
    return found
