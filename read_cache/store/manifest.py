"""A store's manifest: what decides its bytes, what its labels mean, and where its rows come from.

The manifest has two identities. `activations_digest` covers what the backbone computed: backbone, tokens, format.
`task_digest` covers what the rows mean: labels, metric. A renamed metric changes only the second. Both are hashes of
the JSON text in the file, never of this code's classes, so a later version with more fields still opens the store.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from read_cache.errors import StoreError, UserError
from read_cache.settings import Record
from read_cache.store.layout import plan_slices
from read_cache.store.schema import SCHEMA_VERSION, ArraySpec, ComputeDtype, Format, activation_arrays
from read_cache.store.shard import Shard
from read_cache.store.spec import BackboneSpec
from read_cache.tasks import Task
from read_cache.trie import LabelTrie

SPLITS = ("train", "validation", "test")
LABEL_ARRAYS = ("label", "score", "trie", "target")
"""Last part of the names of plan arrays that hold labels, which the backbone does not read."""
LIBRARIES = ("made_with.torch", "made_with.transformers")
"""Names of the versions of libraries in the section `activations`."""


class SplitInfo(Record):
    """Sizes of one split."""

    examples: int
    parts: int
    positions: dict[str, int]
    """By stack: positions of all examples together."""
    chunk: dict[str, int]
    """By flat axis: entries of one part."""

    @property
    def tokens(self) -> int:
        """Positions of the first stack."""
        return next(iter(self.positions.values()))


class Activations(Record):
    """The backbone, the tokens it was given, and the format that its activations are stored in."""

    backbone: BackboneSpec
    tokenizer_digest: str
    tokens_digest: str
    """sha256 over the plan arrays that the backbone reads: tokens, order, parts."""
    splits: dict[str, SplitInfo]
    format: Format
    compute_dtype: ComputeDtype
    max_source_length: int
    seed: int
    part_tokens: int
    made_with: dict[str, str]
    """Versions of the libraries that computed the activations; of imported states, their sha256 as `states`."""


class TaskRecord(Record):
    """The task, its labels and the head's rows."""

    task: Task
    label_ids: tuple[tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...], ...]
    """Tokens of each label, eos last; empty for an open target or a backbone without an LM head."""
    head: Literal["labels", "full", "none"]
    """Rows of the LM head that the store holds: those of the label tokens, all, or none."""
    labels_digest: str
    """sha256 over the plan arrays that hold labels and targets."""


class Provenance(Record):
    """The names that the user gave, and the batch size. Two stores that differ in these alone are equal."""

    model: str
    """The backbone's name as the user gave it."""
    revision: str
    dataset: str
    """The dataset's name as the user gave it."""
    batch_tokens: int
    """Padded tokens of a forward batch; other batches change bf16 states by rounding only."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The manifest of a store. It holds no clock times and no machine names."""

    activations: Activations
    task_record: TaskRecord
    provenance: Provenance
    text: bytes
    """The file's bytes."""

    @staticmethod
    def make(activations: Activations, task_record: TaskRecord, provenance: Provenance) -> "Manifest":
        """Return the manifest of a new store."""
        sections = {"activations": _identified(activations), "task": task_record.values()}
        values = {"schema_version": SCHEMA_VERSION, "provenance": provenance.values()} | sections
        return Manifest(activations, task_record, provenance, _json(values, sort=False))

    def with_task(self, task_record: TaskRecord) -> "Manifest":
        """Return the manifest with another section `task`; the other sections keep their text and digests."""
        values = json.loads(self.text) | {"task": task_record.values()}
        return Manifest(self.activations, task_record, self.provenance, _json(values, sort=False))

    @staticmethod
    def parse(text: bytes, where: str) -> "Manifest":
        """Read a manifest. Raises StoreError, which names `where`, for another schema or a damaged file."""
        try:
            values: dict[str, Any] = json.loads(text)
            version = int(values["schema_version"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise StoreError(f"{where} is damaged ({error!r}): remove the store and extract it again") from error
        if version != SCHEMA_VERSION:
            older = "extract the store again, into another folder or after removing this one"
            remedy = "update read-cache" if version > SCHEMA_VERSION else older
            raise StoreError(f"{where} has schema version {version}, this version reads {SCHEMA_VERSION}: {remedy}")
        try:
            provenance = Provenance(**values["provenance"])
            backbone = {"name": provenance.model, "revision": provenance.revision, **values["activations"]["backbone"]}
            activations = Activations(**values["activations"] | {"backbone": backbone})
            return Manifest(activations, TaskRecord(**values["task"]), provenance, text)
        except (UserError, KeyError, TypeError) as error:
            raise StoreError(f"{where} is damaged ({error}): remove the store and extract it again") from error

    @property
    def digest(self) -> str:
        """sha256 of the manifest file's bytes."""
        return hashlib.sha256(self.text).hexdigest()

    @cached_property
    def activations_digest(self) -> str:
        """Identity of what the backbone computed: sha256 of the manifest's section `activations`."""
        return hashlib.sha256(_json(json.loads(self.text)["activations"])).hexdigest()

    @cached_property
    def task_digest(self) -> str:
        """Identity of what the rows mean: sha256 of the manifest's section `task`."""
        return hashlib.sha256(_json(json.loads(self.text)["task"])).hexdigest()

    @property
    def identity(self) -> str:
        """Identity of activations and task together: what runs and checkpoints are bound to."""
        return hashlib.sha256((self.activations_digest + self.task_digest).encode()).hexdigest()

    @property
    def backbone(self) -> BackboneSpec:
        return self.activations.backbone

    @property
    def format(self) -> Format:
        return self.activations.format

    @property
    def splits(self) -> dict[str, SplitInfo]:
        """Sizes by split, in the order train, validation, test."""
        return {name: self.activations.splits[name] for name in SPLITS if name in self.activations.splits}

    @property
    def task(self) -> Task:
        return self.task_record.task

    @property
    def label_ids(self) -> tuple[tuple[int, ...], ...]:
        return self.task_record.label_ids

    @cached_property
    def trie(self) -> LabelTrie | None:
        """The label trie; None for an open target or a backbone without an LM head."""
        return LabelTrie(self.label_ids) if self.label_ids else None

    def shard(self, spec: ArraySpec, split: str) -> Shard:
        """Return the file layout of one part of an activation array."""
        stack = self.backbone.stack(spec.name.partition("/")[0])
        sizes = {"width": stack.width, "component": self.format.rank, "head": stack.heads} | self.splits[split].chunk
        layers = len(self.format.array_layers(spec.name))
        return Shard(layers, tuple(sizes[axis] for axis in spec.axes[1:]), spec.dtype)

    def part_bytes(self, split: str, arrays: Collection[str], format: Format) -> int:
        """Return the most bytes that a part of these arrays takes in memory, with the layers of `format`."""
        specs = [spec for spec in activation_arrays(self.backbone, self.format) if spec.name in arrays]
        return sum(self.shard(spec, split).stride * len(format.array_layers(spec.name)) for spec in specs)

    def shard_file(self, spec: ArraySpec, split: str, part: int) -> str:
        """Return the file of one part of an activation array in the store's folder, as Zarr names it."""
        place = [str(part) if axis == spec.flat_axis else "0" for axis in spec.axes]
        return f"arrays.zarr/{split}/{spec.name}/c/{'/'.join(place)}"


def _identified(activations: Activations) -> dict[str, Any]:
    """Return the section `activations`, without the name by which the backbone was opened."""
    values = activations.values()
    del values["backbone"]["name"], values["backbone"]["revision"]
    return values


def _json(values: Any, sort: bool = True) -> bytes:
    """Return stable text; digests sort all keys, the file keeps the order of the stacks."""
    return (json.dumps(values, indent=2, sort_keys=sort, ensure_ascii=False) + "\n").encode()


def plan_digests(plan_arrays: Mapping[str, Mapping[str, np.ndarray]], labels_text: Sequence[str]) -> tuple[str, str]:
    """Return (tokens_digest, labels_digest): sha256 over the plan arrays by split, then by name.

    The second covers the labels' text too: two labels exchanged in a manifest would exchange all predictions.
    """
    tokens, labels = hashlib.sha256(), hashlib.sha256(json.dumps(list(labels_text)).encode())
    for split, arrays in sorted(plan_arrays.items()):
        for name, values in sorted(arrays.items()):
            digest = labels if name.rpartition("/")[2] in LABEL_ARRAYS else tokens
            digest.update(f"{split}/{name}{values.shape}{values.dtype}".encode() + values.tobytes())
    return tokens.hexdigest(), labels.hexdigest()


def agree(manifest: Manifest, plan: Mapping[str, np.ndarray]) -> bool:
    """Return True if the first row of each label has the gold path that `label_ids` give, in a split's plan arrays."""
    readout, trie = manifest.backbone.readout, manifest.trie
    if f"{readout}/trie" not in plan:
        return trie is None
    labels, rows = np.unique(plan["label"], return_index=True)
    nodes, targets = (plan_slices(plan, f"{readout}/{name}", rows) for name in ("trie", "target"))
    if trie is None:
        return all((node == -1).all() for node in nodes)
    paths = {label: sorted((node, trie.tokens[at]) for node, at in path) for label, path in enumerate(trie.paths)}
    stored = [
        sorted(zip(node[gold != -1], gold[gold != -1], strict=True)) for node, gold in zip(nodes, targets, strict=True)
    ]
    given = [paths.get(label) for label in labels.tolist()]
    return len(paths) == len(manifest.task.labels) and given == stored


def differences(
    found: Manifest, expected: Manifest, versions: bool = True, sections: Collection[str] = ("activations", "task")
) -> list[str]:
    """Return the settings in which two stores' contents differ, with both values where they are short; none: the same.

    Values are compared, not digests: an earlier version wrote fewer fields. `versions` compares the libraries' too.
    """
    lines = []
    old, new = (
        _flat({"activations": _identified(manifest.activations), "task": manifest.task_record.values()})
        for manifest in (found, expected)
    )
    for path in sorted(old.keys() | new.keys()):
        section, _, name = path.partition(".")
        values = [old.get(path), new.get(path)]
        derived = name.startswith("splits.") and not name.endswith(".examples")  # they follow from the tokens
        derived |= name == "backbone.stacks"  # they follow from the backbone's digest
        ignored = derived or section not in sections or (name in LIBRARIES and not versions)
        if values[0] != values[1] and not ignored:
            short = not name.endswith("digest") and len(f"{values}") < 100
            lines.append(f"{name} is {values[0]}, asked for {values[1]}" if short else f"{name} differs")
    return lines


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by names joined with dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
