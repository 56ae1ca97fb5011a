"""Predictions for rows, and the batches that rows are predicted in."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from read_cache.backbones import Source
from read_cache.errors import UserError
from read_cache.scoring.heads import Scores
from read_cache.tasks import Task


@dataclasses.dataclass(frozen=True)
class Classified:
    """The prediction of one network for one row."""

    label: str
    """Of a task with scores, the label nearest to `value`. Of an open target, the generated text."""
    probabilities: dict[str, float]
    """By label; they sum to one. Empty for a regressor and for generated text."""
    value: float | None = None
    """The predicted score; None for classes and text."""


def classified(task: Task, scores: Scores) -> list[Classified]:
    """Return each row's prediction, from the values that evaluation compares with the gold ones."""
    rows = []
    shares = [[]] * len(scores.predicted) if scores.probabilities is None else scores.probabilities.tolist()
    for predicted, row in zip(scores.predicted.tolist(), shares, strict=True):
        probabilities = dict(zip(task.labels, row, strict=True)) if row else {}
        if task.scores:
            nearest = min(task.labels, key=lambda label: abs(float(label) - predicted))
            rows.append(Classified(nearest, probabilities, round(predicted, 6)))
        else:
            rows.append(Classified(task.labels[int(predicted)], probabilities))
    return rows


def batches_by_length(sources: Sequence[Source], batch_size: int) -> Iterator[list[int]]:
    """Yield indices of rows, the longest first, `batch_size` at a time. Raises UserError for a size below 1."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    order = np.argsort([-len(source.ids) for source in sources], kind="stable").tolist()
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
