"""A row's label, score or target, checked."""

import contextlib
import json
from typing import Any

import numpy as np

from read_cache.errors import UserError
from read_cache.tasks import Task


def row_score(task: Task, row: dict[str, Any], where: str) -> float:
    """Return a row's label id, or its own number if the task's labels are scores. Raises UserError."""
    value, labels = row[task.label_field], task.labels
    if task.scores:
        return _number(task, value, where)
    if isinstance(value, str):  # in a CSV a number is text too
        if value in labels:
            return float(labels.index(value))
        with contextlib.suppress(ValueError):
            value = int(value)
    elif isinstance(value, int):
        for word in {json.dumps(value), str(value)} & set(labels):
            if labels.index(word) != value:
                raise UserError(
                    f"{where}: label {word} could be the label {word!r} or, counting from 0, label number "
                    f"{int(value)}: write it as text"
                )
    if isinstance(value, int) and 0 <= value < len(labels):
        return float(value)
    hidden = " (its labels are hidden)" if value == -1 else ""
    raise UserError(f"{where}: label {value!r} is none of 0..{len(labels) - 1} or {', '.join(labels)}{hidden}")


def _number(task: Task, value: Any, where: str) -> float:
    low, high = float(task.labels[0]), float(task.labels[-1])
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"{where}: score {value!r} is no number from {task.labels[0]} to {task.labels[-1]}")
    return float(value)


def label_of(task: Task, score: float) -> int:
    """Return the nearest label id, halves to the even one, as T5 rounds STS-B."""
    if not task.scores:
        return int(score)
    values = [float(label) for label in task.labels]
    return round(round(float(np.interp(score, values, np.arange(len(values)))), 6))


def target_text(task: Task, row: dict[str, Any], where: str) -> str:
    """Return a row's open target. Raises UserError if it is empty or no text."""
    values = {field: row[field] for field in task.target_fields}
    for field, value in values.items():
        if not isinstance(value, (str, int, float)):
            raise UserError(f"{where}: {field!r} is {value!r}, expected text")
    text = task.target.format(**values)
    if not text.strip():
        raise UserError(f"{where}: the target is empty")
    return text
