"""A store's folder and its three states.

absent   no plan.json, no manifest.json
planned  plan.json: everything is decided, parts may still be missing
sealed   manifest.json: the same file under its last name; its existence means the store is complete
"""

import dataclasses
import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

from read_cache.errors import StoreError
from read_cache.store.schema import SCHEMA_VERSION, Attention, HiddenDtype
from read_cache.tasks import TASKS, Task
from read_cache.trie import LabelTrie

SPLITS = ("train", "validation", "test")


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
    """sha256 over every plan array of every split: rows, tokens, labels, order."""
    splits: dict[str, SplitInfo]
    dtype: HiddenDtype
    compute_dtype: HiddenDtype
    attention: Attention
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

    def axis_size(self, axis: str, split: str) -> int:
        """Size of an array axis in a split."""
        info, backbone = self.splits[split], self.backbone
        fixed = {
            "example": info.examples,
            "part": info.parts,
            "part_edge": info.parts + 1,
            "width": backbone.width,
            "head": backbone.heads,
        }
        return fixed[axis] if axis in fixed else info.parts * info.chunk[axis]

    def layers(self, array: str) -> int:
        """Layers of the stack an activation array belongs to."""
        return self.backbone.encoder_layers if array.startswith("encoder/") else self.backbone.decoder_layers

    def command(self, store: Path) -> str:
        """The command that makes this store, but for options that no manifest holds."""
        options: dict[str, object] = {"model": self.backbone.name, "task": self.task.name, "store": store}
        if self.task != TASKS.get(self.task.name):
            options["task"] = f"{self.task.name}.toml"
        if self.dataset != "bundled" and not self.dataset.startswith("nyu-mll/glue/"):
            options["dataset"] = self.dataset
        shown = ("dtype", "compute_dtype", "attention", "max_source_length", "seed", "part_tokens", "batch_tokens")
        options |= {name.replace("_", "-"): getattr(self, name) for name in shown}
        return "read-cache extract " + " ".join(
            f"--{name} {shlex.quote(str(value))}" for name, value in options.items()
        )

    def to_json(self) -> str:
        """Stable text: sorted keys, two spaces, a newline at the end."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @staticmethod
    def read(path: Path) -> "Manifest":
        """Read what `to_json` wrote. Raises StoreError for another schema version or a damaged file."""
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found = int(values["schema_version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged ({error!r}); extract the store again") from error
        if found != SCHEMA_VERSION:
            age = "newer" if found > SCHEMA_VERSION else "older"
            remedy = "update read-cache" if found > SCHEMA_VERSION else "extract the store again"
            raise StoreError(f"{path} has schema version {found}, {age} than this code's {SCHEMA_VERSION}: {remedy}")
        try:
            task, splits = values.pop("task"), values.pop("splits")
            return Manifest(
                backbone=BackboneInfo(**values.pop("backbone")),
                task=Task(**{**task, "labels": tuple(task["labels"])}),
                label_ids=tuple(tuple(ids) for ids in values.pop("label_ids")),
                splits={name: SplitInfo(**splits[name]) for name in SPLITS if name != "test" or name in splits},
                **values,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path} is damaged ({error}); extract the store again") from error


@dataclasses.dataclass(frozen=True)
class StoreFolder:
    """The paths of a store."""

    path: Path

    @property
    def arrays(self) -> Path:
        """The Zarr group with everything in it."""
        return self.path / "arrays.zarr"

    @property
    def plan(self) -> Path:
        """The manifest before the store is sealed."""
        return self.path / "plan.json"

    @property
    def manifest(self) -> Path:
        """The manifest of a sealed store."""
        return self.path / "manifest.json"

    def read_manifest(self) -> Manifest:
        """The manifest of a sealed store; StoreError says how to make or finish one."""
        if self.manifest.exists():
            return Manifest.read(self.manifest)
        if plan := self.read_plan():
            raise StoreError(
                f"store {self.path} is not complete: its extraction was interrupted. Finish it with\n"
                f"  {plan.command(self.path)}\n"
                "and --max-examples, --revision or --device, where it was begun with them"
            )
        raise StoreError(f"no store at {self.path}: make one with read-cache extract --store {self.path}")

    def read_plan(self) -> Manifest | None:
        """The manifest of a planned store, or None."""
        if not self.plan.exists():
            return None
        return Manifest.read(self.plan)

    def write_plan(self, manifest: Manifest) -> None:
        """Make the store planned, at once."""
        unfinished = self.plan.with_suffix(".unfinished")
        unfinished.write_text(manifest.to_json(), encoding="utf-8")
        os.replace(unfinished, self.plan)

    def seal(self) -> None:
        """Make the store sealed, at once."""
        os.replace(self.plan, self.manifest)


def find_stores(path: Path) -> list[StoreFolder]:
    """The store at `path`, or every sealed store below it, sorted; StoreError where there is none."""
    folder = StoreFolder(path)
    if not path.exists() or folder.manifest.exists() or folder.plan.exists():
        folder.read_manifest()
        return [folder]
    found = sorted(manifest.parent for manifest in path.glob("**/manifest.json"))
    if not found:
        raise StoreError(f"no finished store in {path}: make one with read-cache extract --store {path}/NAME")
    return [StoreFolder(store) for store in found]
