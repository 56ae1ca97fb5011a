"""The plan: the order of the examples, the plan arrays, the manifest. A pure function of rows, tokens and settings."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import transformers

from read_cache.backbones.base import Backbone
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.extraction.encode import EncodedSplit, Encoder
from read_cache.extraction.rows import load_rows, source_name
from read_cache.extraction.splits import protocol_splits
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
    skipped: int = 0
    """Number of rows without text that were left out."""

    @property
    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """Plan arrays by split, then by name."""
        return {name: split.arrays for name, split in self.splits.items()}


def make_plan(backbone: Backbone, task: Task, dataset: str | None, config: ExtractConfig) -> Plan:
    """Load and encode the rows and decide the store's whole layout. Raises UserError for bad rows."""
    encoded = encode_rows(backbone, task, dataset, config)
    return plan_encoded(backbone, task, source_name(task, dataset), encoded, config)


def encode_rows(backbone: Backbone, task: Task, dataset: str | None, config: ExtractConfig) -> dict[str, EncodedSplit]:
    """Load and encode the rows of every split. Raises UserError for bad rows."""
    rows = protocol_splits(load_rows(task, dataset), task.protocol)
    encoder = Encoder(task, backbone, config)
    encoded = {name: encoder.encode(split_rows, name) for name, split_rows in rows.items()}
    _check_vocabulary(backbone, encoded)
    return encoded


def plan_encoded(
    backbone: Backbone, task: Task, source: str, encoded: Mapping[str, EncodedSplit], config: ExtractConfig
) -> Plan:
    """Decide the whole layout of a store of encoded rows; `source` is the dataset's name in the manifest."""
    spec = backbone.spec
    splits = {name: plan_split(split, config, spec) for name, split in encoded.items()}
    manifest = make_manifest(
        config,
        backbone.read(task),
        source,
        spec,
        backbone.tokenizer_digest,
        backbone.label_ids(task),
        {name: split.layout for name, split in splits.items()},
        plan_digests({name: split.arrays for name, split in splits.items()}, task.labels),
    )
    return Plan(
        manifest,
        splits,
        sum(split.truncated for split in encoded.values()),
        sum(split.skipped for split in encoded.values()),
    )


def plan_split(encoded: EncodedSplit, config: ExtractConfig, spec: BackboneSpec) -> PlannedSplit:
    """Permute once, so that reading in order is reading at random; take the sample; cut into parts."""
    order = np.random.default_rng(config.seed).permutation(len(encoded.row))[: config.max_examples]
    lengths = {
        stack.name: np.array([len(encoded.stacks[stack.name]["token"][i]) for i in order], dtype=np.int32)
        for stack in spec.stacks
    }
    layout = plan_parts(spec.stacks, lengths, config.part_tokens)
    known = {
        "example_id": encoded.row[order],
        "label": encoded.label[order],
        "score": encoded.score[order],
        "part_start": layout.part_start,
    }
    known |= {f"{name}/length": length for name, length in lengths.items()}
    for axis, offsets in layout.offsets.items():
        stack, _, kind = axis.rpartition("_")
        known[f"{stack}/{kind}_offset"] = offsets
    arrays = {}
    for array in plan_arrays(spec):
        if array.name in known:
            arrays[array.name] = known[array.name].astype(array.dtype)
            continue
        stack, _, name = array.name.partition("/")
        axis = array.axes[0]
        flat = arrays[array.name] = np.zeros(layout.parts * layout.sizes[axis], dtype=array.dtype)
        for offset, i in zip(layout.offsets[axis], order, strict=True):
            values = encoded.stacks[stack][name][i]
            flat[offset : offset + len(values)] = values
    return PlannedSplit(arrays, layout)


def make_manifest(
    config: ExtractConfig,
    task: Task,
    dataset: str,
    backbone: BackboneSpec,
    tokenizer_digest: str,
    label_ids: tuple[tuple[int, ...], ...],
    layouts: Mapping[str, Layout],
    digests: tuple[str, str],
) -> Manifest:
    """Return the manifest of a planned store; `digests` are those of `plan_digests`."""
    activations = Activations(
        backbone=backbone,
        tokenizer_digest=tokenizer_digest,
        tokens_digest=digests[0],
        splits={
            name: SplitInfo(
                examples=len(layout.length),
                parts=layout.parts,
                positions={stack: int(lengths.sum()) for stack, lengths in layout.lengths.items()},
                chunk=layout.sizes,
            )
            for name, layout in layouts.items()
        },
        format=config.format(backbone),
        compute_dtype=config.computed_in,
        max_source_length=config.max_source_length,
        seed=config.seed,
        part_tokens=config.part_tokens,
        made_with={"torch": torch.__version__, "transformers": transformers.__version__},
    )
    head: Literal["labels", "full", "none"] = "none"
    if backbone.language_model:
        head = "labels" if label_ids else "full"
    record = TaskRecord(task=task, label_ids=label_ids, head=head, labels_digest=digests[1])
    provenance = Provenance(
        model=backbone.name, revision=backbone.revision, dataset=dataset, batch_tokens=config.batch_tokens
    )
    return Manifest.make(activations, record, provenance)


def _check_vocabulary(backbone: Backbone, encoded: Mapping[str, EncodedSplit]) -> None:
    """Raise UserError if the tokenizer gives tokens that the model does not have."""
    tokens = (arrays["token"] for split in encoded.values() for arrays in split.stacks.values())
    largest = max(int(values.max()) for lists in tokens for values in lists)
    if largest >= backbone.config.vocab_size:
        raise UserError(
            f"the tokenizer of model {backbone.name} gives token {largest}, but the model knows "
            f"{backbone.config.vocab_size}: is it the tokenizer of another model?"
        )
