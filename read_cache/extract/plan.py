"""The plan: the order of the examples, the plan arrays, the manifest. A pure function of rows, tokens and settings."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
import transformers

from read_cache.backbones.t5 import Backbone
from read_cache.errors import UserError
from read_cache.extract.config import ExtractConfig
from read_cache.extract.encode import EncodedSplit, Encoder
from read_cache.extract.rows import load_rows, source_name
from read_cache.extract.splits import protocol_splits
from read_cache.store.layout import Layout, plan_parts
from read_cache.store.manifest import BackboneInfo, Manifest, SplitInfo, fingerprint
from read_cache.store.schema import PLAN_ARRAYS
from read_cache.tasks import Task

PLAN_DTYPES = {spec.name: spec.dtype for spec in PLAN_ARRAYS}


@dataclasses.dataclass(frozen=True)
class PlannedSplit:
    """One split in the order of the store."""

    encoded: EncodedSplit
    order: np.ndarray
    """[examples] int64: store place -> row of the protocol's split."""
    layout: Layout

    def plan_arrays(self) -> dict[str, np.ndarray]:
        """Every plan array by name; see `store/schema.py`."""
        encoded, order, layout = self.encoded, self.order, self.layout
        nodes = [encoded.nodes[row] for row in order]
        flat = {
            "input_ids": ("token", [encoded.input_ids[row] for row in order]),
            "node_token": ("node", [node.token for node in nodes]),
            "node_parent": ("node", [node.parent for node in nodes]),
            "node_trie": ("node", [node.trie for node in nodes]),
            "node_target": ("node", [node.target for node in nodes]),
        }
        arrays = {
            "example_id": order,
            "label": encoded.label[order],
            "score": encoded.score[order],
            "length": layout.length,
            "nodes": layout.nodes,
            "part_start": layout.part_start,
        }
        arrays |= {f"{axis}_offset": offsets for axis, offsets in layout.offsets.items()}
        for name, (axis, values) in flat.items():
            arrays[name] = np.zeros(layout.parts * layout.sizes[axis], dtype=np.int32)
            for offset, value in zip(layout.offsets[axis], values, strict=True):
                arrays[name][offset : offset + len(value)] = value
        return {name: values.astype(PLAN_DTYPES[name]) for name, values in arrays.items()}


def plan_split(encoded: EncodedSplit, config: ExtractConfig) -> PlannedSplit:
    """Permute once, so that reading in order is reading at random; take the sample; cut into parts."""
    order = np.random.default_rng(config.seed).permutation(len(encoded.input_ids))[: config.max_examples]
    length = np.array([len(encoded.input_ids[row]) for row in order], dtype=np.int32)
    nodes = np.array([len(encoded.nodes[row].token) for row in order], dtype=np.int32)
    return PlannedSplit(encoded, order, plan_parts(length, nodes, config.part_tokens))


def make_manifest(
    config: ExtractConfig,
    task: Task,
    dataset: str,
    backbone: BackboneInfo,
    tokenizer_digest: str,
    label_ids: tuple[tuple[int, ...], ...],
    plan_arrays: Mapping[str, Mapping[str, np.ndarray]],
    layouts: Mapping[str, Layout],
) -> Manifest:
    """The manifest of the planned store."""
    return Manifest(
        backbone=backbone,
        tokenizer_digest=tokenizer_digest,
        task=task,
        label_ids=label_ids,
        dataset=dataset,
        fingerprint=fingerprint(plan_arrays),
        splits={
            split: SplitInfo(
                examples=len(layout.length),
                parts=layout.parts,
                tokens=int(layout.length.sum()),
                nodes=int(layout.nodes.sum()),
                chunk=layout.sizes,
            )
            for split, layout in layouts.items()
        },
        form=config.form(backbone.encoder_layers, backbone.decoder_layers, backbone.width),
        compute_dtype=config.computed_in,
        head="labels" if task.labels else "full",
        max_source_length=config.max_source_length,
        seed=config.seed,
        part_tokens=config.part_tokens,
        batch_tokens=config.batch_tokens,
        made_with={"torch": torch.__version__, "transformers": transformers.__version__},
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything decided before the backbone runs."""

    manifest: Manifest
    splits: dict[str, PlannedSplit]
    plan_arrays: dict[str, dict[str, np.ndarray]]

    @property
    def truncated(self) -> int:
        """Sources cut to the length limit."""
        return sum(split.encoded.truncated for split in self.splits.values())


def make_plan(backbone: Backbone, task: Task, dataset: str | None, config: ExtractConfig) -> Plan:
    """Load and encode the rows and decide the store's whole layout. Raises UserError for bad rows."""
    rows = protocol_splits(load_rows(task, dataset), task.protocol)
    encoder = Encoder(task, backbone.tokenizer, backbone.start_token, config.max_source_length, config.on_long)
    splits = {name: plan_split(encoder.encode(split_rows, name), config) for name, split_rows in rows.items()}
    plan_arrays = {name: split.plan_arrays() for name, split in splits.items()}
    largest = max(int(arrays[name].max()) for arrays in plan_arrays.values() for name in ("input_ids", "node_token"))
    if largest >= backbone.config.vocab_size:
        raise UserError(
            f"the tokenizer of model {backbone.name} gives token {largest}, but the model knows "
            f"{backbone.config.vocab_size}: is it the tokenizer of another model?"
        )
    manifest = make_manifest(
        config,
        task,
        source_name(task, dataset),
        backbone.info(),
        backbone.tokenizer_digest,
        encoder.label_ids,
        plan_arrays,
        {name: split.layout for name, split in splits.items()},
    )
    return Plan(manifest, splits, plan_arrays)
