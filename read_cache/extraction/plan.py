"""The plan: the order of the examples, the plan arrays, the manifest. A pure function of rows, tokens and settings."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from read_cache.backbones.base import Backbone
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.extraction.encode import EncodedSplit, Encoder
from read_cache.extraction.rows import load_rows, protocol_splits, source_name
from read_cache.extraction.stored import state_positions
from read_cache.store.layout import Layout, plan_parts
from read_cache.store.manifest import Activations, Manifest, Provenance, SplitInfo, TaskRecord, plan_digests
from read_cache.store.schema import plan_arrays
from read_cache.store.spec import BackboneSpec
from read_cache.tasks import Task


@dataclasses.dataclass(frozen=True)
class PlannedSplit:
    """One split in the order of the store."""

    arrays: dict[str, np.ndarray]
    """Every plan array by name; see `store/schema.py`."""
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything decided before the backbone runs."""

    manifest: Manifest
    splits: dict[str, PlannedSplit]
    truncated: int = 0
    """Number of rows that were cut to the length limit."""

    @property
    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """Plan arrays by split, then by name."""
        return {name: split.arrays for name, split in self.splits.items()}


def make_plan(backbone: Backbone, task: Task, dataset: str | None, config: ExtractConfig) -> Plan:
    """Load and encode the rows and decide the store's whole layout. Raises UserError for bad rows."""
    encoded = encode_rows(backbone, task, dataset, config)
    return plan_encoded(backbone, task, source_name(task, dataset), encoded, config)


def encode_rows(backbone: Backbone, task: Task, dataset: str | None, config: ExtractConfig) -> dict[str, EncodedSplit]:
    """Load and encode the rows of every split. Raises UserError for bad rows, and for a tokenizer of another model."""
    rows = protocol_splits(load_rows(task, dataset), task.protocol)
    encoder = Encoder(task, backbone, config)
    encoded = {name: encoder.encode(split_rows, name) for name, split_rows in rows.items()}
    tokens = (arrays["token"] for split in encoded.values() for arrays in split.stacks.values())
    largest = max(int(values.max()) for lists in tokens for values in lists)
    if largest >= backbone.config.vocab_size:
        raise UserError(
            f"model {backbone.name} has {backbone.config.vocab_size} tokens, but its tokenizer gives token {largest}: "
            "it is the tokenizer of another model; put the model's own into its folder"
        )
    return encoded


def plan_encoded(
    backbone: Backbone, task: Task, source: str, encoded: Mapping[str, EncodedSplit], config: ExtractConfig
) -> Plan:
    """Decide the whole layout of a store of encoded rows; `source` is the dataset's name in the manifest."""
    spec, task, label_ids = backbone.spec, backbone.read(task), backbone.label_ids(task)
    splits = {name: plan_split(split, config, spec) for name, split in encoded.items()}
    digests = plan_digests({name: split.arrays for name, split in splits.items()}, task.labels)
    sizes = {
        name: SplitInfo(
            examples=len(split.layout.length),
            parts=split.layout.parts,
            positions={stack: int(lengths.sum()) for stack, lengths in split.layout.lengths.items()},
            chunk=split.layout.sizes,
        )
        for name, split in splits.items()
    }
    activations = Activations(
        backbone=spec,
        tokenizer_digest=backbone.tokenizer_digest,
        tokens_digest=digests[0],
        splits=sizes,
        format=config.format(spec),
        compute_dtype=config.computed_in,
        max_source_length=config.max_source_length,
        seed=config.seed,
        part_tokens=config.part_tokens,
        made_with=backbone.made_with,
    )
    head: Literal["labels", "full", "none"] = "none"
    if spec.language_model:
        head = "labels" if label_ids else "full"
    record = TaskRecord(task=task, label_ids=label_ids, head=head, labels_digest=digests[1])
    provenance = Provenance(model=spec.name, revision=spec.revision, dataset=source, batch_tokens=config.batch_tokens)
    return Plan(
        Manifest.make(activations, record, provenance),
        splits,
        truncated=sum(split.truncated for split in encoded.values()),
    )


def plan_split(encoded: EncodedSplit, config: ExtractConfig, spec: BackboneSpec) -> PlannedSplit:
    """Permute once, so that reading in order is reading at random; take the sample; cut into parts."""
    order = np.random.default_rng(config.seed).permutation(len(encoded.label))[: config.max_examples]
    lengths = {
        stack.name: np.array([len(encoded.stacks[stack.name]["token"][i]) for i in order], dtype=np.int32)
        for stack in spec.stacks
    }
    format = config.format(spec)
    axes = {stack.name: format.state_axis(stack.causal) for stack in spec.stacks}
    selected = {
        f"{stack}/{axis}": [
            state_positions(axis, {name: rows[i] for name, rows in encoded.stacks[stack].items()}) for i in order
        ]
        for stack, axis in axes.items()
        if axis != "token"
    }
    counts = {name: np.array([len(entries) for entries in rows], np.int32) for name, rows in selected.items()}
    layout = plan_parts(spec.stacks, lengths, config.part_tokens)
    layout = dataclasses.replace(layout, selected={name.replace("/", "_"): count for name, count in counts.items()})
    known = {
        "example_id": order,
        "label": encoded.label[order],
        "score": encoded.score[order],
        "part_start": layout.part_start,
    }
    known |= {f"{name}/length": length for name, length in lengths.items()}
    known |= {f"{name}_length": count for name, count in counts.items()}
    for axis, offsets in layout.offsets.items():
        stack, _, kind = axis.rpartition("_")
        known[f"{stack}/{kind}_offset"] = offsets
    arrays = {}
    for array in plan_arrays(spec, format):
        if array.name in known:
            arrays[array.name] = known[array.name].astype(array.dtype)
            continue
        stack, _, name = array.name.partition("/")
        axis = array.axes[0]
        flat = arrays[array.name] = np.zeros(layout.parts * layout.sizes[axis], dtype=array.dtype)
        rows = selected.get(array.name) or [encoded.stacks[stack][name][i] for i in order]
        for offset, values in zip(layout.offsets[axis], rows, strict=True):
            flat[offset : offset + len(values)] = values
    return PlannedSplit(arrays, layout)
