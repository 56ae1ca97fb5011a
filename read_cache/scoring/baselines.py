"""Baselines that train nothing: the majority class, and the backbone's own predictions."""

from collections.abc import Collection

import numpy as np
import torch

from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.metrics import compute_metric
from read_cache.scoring.choose import make_head
from read_cache.scoring.evaluator import evaluate
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import SplitReader, StoreReader

Metrics = dict[str, float]
"""A metric, times 100, by split."""
MAJORITY, UNTRAINED = "majority class", "untrained backbone"


def baselines(store: StoreReader, names: Collection[str] = ()) -> dict[str, Metrics]:
    """Return each baseline's metric on the named splits, by default on every split but train, from the store alone.

    The majority class needs labels; the untrained backbone needs an LM head. Raises UserError for the training split.
    """
    if "train" in names:
        raise UserError("split is 'train', expected validation or test: baselines are not measured on training rows")
    splits = {name: store.split(name) for name in names or store.manifest.splits if name != "train"}
    metrics: dict[str, Metrics] = {}
    if store.manifest.task.labels:
        train = store.split("train")
        metrics[MAJORITY] = {name: majority(split, train) for name, split in splits.items()}
    if store.manifest.backbone.language_model:
        metrics[UNTRAINED] = {name: untrained(store, split) for name, split in splits.items()}
    return metrics


def majority(split: SplitReader, train: SplitReader) -> float:
    """Return the metric of the training split's most frequent label, or of its mean where labels are scores."""
    task = split.manifest.task
    constant = float(train.plan["score"].mean()) if task.scores else float(np.bincount(train.plan["label"]).argmax())
    return compute_metric(task.metric, split.plan["score"], np.full(split.examples, constant))


def untrained(store: StoreReader, split: SplitReader) -> float:
    """Return the metric of the backbone's own constrained predictions: READ with U = 0."""
    manifest = store.manifest
    assert store.head is not None
    rows, stack = torch.from_numpy(store.head[1]), manifest.backbone.readout
    head = make_head(HeadSettings(), manifest, rows, stack=stack)
    batches = SplitBatches(split, make_collator(store, layers=(), attention=False), 256, tier="streamed")
    return evaluate([(None, head)], batches)[0].metric
