"""Metrics of networks on a split, in float32, and of baselines that train nothing.

Evaluation and prediction score by the same function.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.metrics import compute_metric, detail_metrics, headline
from read_cache.scoring.choose import make_head
from read_cache.scoring.heads import Head, HeadSettings, Scores
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.tasks import Metric


class Batches(Protocol):
    """Batches of one split: of a store, or of tokens for a live method."""

    split: SplitReader

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield every example once, shuffled, from batch `start` on; the order depends on (seed, epoch) alone."""

    def in_order(self) -> Iterator[Any]:
        """Yield every example once."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of one network on one split."""

    metric: float
    """The task's headline metric, times 100."""
    details: dict[str, float]
    """The metrics whose mean is the headline metric, times 100."""
    loss: float
    """Mean loss, in the head's unit."""
    gold: np.ndarray = dataclasses.field(compare=False, repr=False)
    """Gold values in the order of the batches, [examples]: label ids, scores, or shares of right tokens."""
    predicted: np.ndarray = dataclasses.field(compare=False, repr=False)
    """The network's predictions for the same examples, in the same order and unit, [examples] float64."""


@torch.inference_mode()
def score_batch(network: Callable[[Any], Tensor] | None, head: Head, batch: Any) -> Scores:
    """Return a network's predictions for a batch, in float32. Without a network the head reads the frozen states."""
    y = batch.final if network is None else network(batch)
    return head.scores(y.float(), batch.targets)


def evaluate(networks: Sequence[tuple[nn.Module | None, Head]], batches: Batches) -> list[Evaluation]:
    """Return the metrics of each network with its head on one split, in one read of it.

    Raises UserError for the training split of a task with a label trie, whose rows hold the gold path only. The loss of
    a network whose outputs are not finite is NaN or infinite.
    """
    split = batches.split
    if split.name == "train" and split.manifest.trie is not None:
        raise UserError("the training split holds only the gold path of each label: evaluate on validation or test")
    for module in (module for pair in networks for module in pair if module is not None):
        module.eval()
    rows: list[np.ndarray] = []
    outputs: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in networks]  # on the device until the end
    for batch in batches.in_order():
        rows.append(batch.targets.rows)
        for own, (network, head) in zip(outputs, networks, strict=True):
            scores = score_batch(network, head, batch)
            own.append((scores.predicted, scores.loss, scores.weight))
    gold, order = split.plan["score"], np.concatenate(rows)
    evaluations = []
    for own in outputs:
        predicted, loss, weight = (torch.cat(values).cpu().double().numpy() for values in zip(*own, strict=True))
        details = detail_metrics(split.manifest.task.metric, gold[order], predicted)
        loss_mean = float(loss.sum() / weight.sum())
        evaluations.append(Evaluation(headline(details), details, loss_mean, gold[order], predicted))
    return evaluations


def joint_metric(metric: Metric, evaluations: Iterable[Evaluation]) -> float:
    """Return the metric of one network on several splits as one, times 100."""
    gold, predicted = zip(*((found.gold, found.predicted) for found in evaluations), strict=True)
    return compute_metric(metric, np.concatenate(gold), np.concatenate(predicted))


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
