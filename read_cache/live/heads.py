"""The heads of attached networks, and predictions from their scores."""

import dataclasses
from collections.abc import Mapping

import torch

from read_cache.backbones import Backbone
from read_cache.networks.saved import TrainedNetwork
from read_cache.scoring.choose import saved_head
from read_cache.scoring.heads import Head, Rows, Scores
from read_cache.tasks import Task
from read_cache.trie import LabelTrie


@dataclasses.dataclass(frozen=True)
class Classified:
    """The prediction of one network for one row."""

    label: str
    """Of a task with scores, the label nearest to `value`. Of an open target, the generated text."""
    probabilities: dict[str, float]
    """By label; they sum to one. Empty for a regressor and for generated text."""
    value: float | None = None
    """The predicted score; None for classes and text."""


def load_heads(backbone: Backbone, trained: Mapping[str, TrainedNetwork]) -> dict[str, Head]:
    """Return the head of each network with a closed label set, by name. Raises UserError.

    A head is the backbone's LM head over a label trie, or a trained one. Networks of the same labels share the LM
    head's rows.
    """
    rows: dict[LabelTrie, Rows] = {}
    heads = {}
    for name, one in trained.items():
        if not one.record.task.labels:
            continue
        trie = one.record.trie
        if trie is not None and trie not in rows:
            tokens, of_method = torch.from_numpy(trie.tokens), getattr(one.network, "head_rows", None)
            rows[trie] = of_method(tokens) if of_method else backbone.head_rows(tokens).to(backbone.device)
        heads[name] = saved_head(one, None if trie is None else rows[trie], backbone.device)
    return heads


def classified(task: Task, scores: Scores) -> list[Classified]:
    """Return each row's prediction, from the values that evaluation compares with the gold ones."""
    predicted = scores.predicted.tolist()
    if scores.probabilities is None:
        probabilities: list[dict[str, float]] = [{} for _ in predicted]
    else:
        probabilities = [dict(zip(task.labels, row, strict=True)) for row in scores.probabilities.tolist()]
    results = []
    for value, shares in zip(predicted, probabilities, strict=True):
        if task.scores:
            nearest = min(task.labels, key=lambda label: abs(float(label) - value))
            results.append(Classified(nearest, shares, round(value, 6)))
        else:
            results.append(Classified(task.labels[int(value)], shares))
    return results
