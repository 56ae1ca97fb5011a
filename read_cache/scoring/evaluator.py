"""Metrics of networks on a split, in float32, and of baselines that train nothing.

Evaluation and prediction score by the same function. Metrics are times 100, by scikit-learn and scipy. What they leave
undefined is defined here: with one class only, or constant predictions or scores, Matthews and both correlations are 0;
F1 of a set without positives, predicted or true, is 0 as well.
"""

import dataclasses
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.scoring.choose import make_head
from read_cache.scoring.heads import Head, HeadSettings, Scores
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.tasks import Metric

Metrics = dict[str, float]
"""A metric, times 100, by split."""
MAJORITY, UNTRAINED = "majority class", "untrained backbone"


def compute_metric(metric: Metric, gold: np.ndarray, predicted: np.ndarray) -> float:
    """Return the headline number of `metric`; gold and predicted are [examples]: label ids, scores, or token shares."""
    return headline(detail_metrics(metric, gold, predicted))


def headline(details: dict[str, float]) -> float:
    """Return the mean of a metric's parts: F1 and accuracy, Pearson and Spearman, or its only part."""
    return float(np.mean(list(details.values())))


def detail_metrics(metric: Metric, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return each part of a metric by name, times 100. Raises UserError for empty inputs or unequal lengths."""
    if len(gold) == 0 or len(gold) != len(predicted):
        raise UserError(f"{metric} needs as many predictions as gold values: {len(predicted)} against {len(gold)}")
    match metric:
        case "accuracy":
            values = {"accuracy": accuracy_score(gold, predicted)}
        case "matthews":
            constant = np.ptp(gold) == 0 or np.ptp(predicted) == 0
            values = {"matthews": 0.0 if constant else matthews_corrcoef(gold, predicted)}
        case "f1_accuracy":
            f1 = f1_score(gold, predicted, pos_label=1, average="binary", zero_division=0.0)
            values = {"f1": f1, "accuracy": accuracy_score(gold, predicted)}
        case "pearson_spearman":
            values = {"pearson": _correlation(pearsonr, gold, predicted)}
            values |= {"spearman": _correlation(spearmanr, gold, predicted)}
        case "token_accuracy":
            values = {"token_accuracy": float(np.mean(predicted))}
    return {name: 100 * float(value) for name, value in values.items()}


def _correlation(function, gold: np.ndarray, predicted: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    if len(gold) < 2 or np.ptp(gold) == 0 or np.ptp(predicted) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # near-constant input
        return float(np.nan_to_num(function(gold, predicted)[0]))


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
