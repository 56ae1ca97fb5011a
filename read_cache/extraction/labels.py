"""A row's label: its number, score or target text, checked, and the decoder nodes at which it is scored."""

import contextlib
import json
from typing import Any

import numpy as np

from read_cache.backbones.base import Nodes
from read_cache.errors import UserError
from read_cache.tasks import Task
from read_cache.trie import LabelTrie


def row_score(task: Task, row: dict[str, Any], where: str) -> float:
    """Return a row's label id, or its own number if the task's labels are scores.

    Raises UserError, which names the row as `where`.
    """
    value, labels = row[task.label_field], task.labels
    if task.scores:
        return _number(task, value, where)
    if isinstance(value, str):  # a CSV file holds numbers as text
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
        raise UserError(f"{where}: score {value!r} is not a number from {task.labels[0]} to {task.labels[-1]}")
    return float(value)


def label_of(task: Task, score: float) -> int:
    """Return the nearest label id, halves to the even one, as T5 rounds STS-B."""
    if not task.scores:
        return int(score)
    values = [float(label) for label in task.labels]
    return round(round(float(np.interp(score, values, np.arange(len(values)))), 6))


def target_text(task: Task, row: dict[str, Any], where: str) -> str:
    """Return a row's open target. Raises UserError if a field is not text or the target is empty."""
    for field in task.target_fields:
        if not isinstance(row[field], (str, int, float)):
            raise UserError(f"{where}: {field!r} is {row[field]!r}, expected text")
    text = task.target.format(**{field: row[field] for field in task.target_fields})
    if not text.strip():
        raise UserError(f"{where}: the target is empty")
    return text


def label_nodes(trie: LabelTrie, start_token: int, label: int, gold_only: bool) -> Nodes:
    """Return the nodes on a label's path alone, or every node of the trie, with the gold tokens of that label."""
    kept = trie.gold_nodes(label) if gold_only else np.arange(len(trie.prefixes), dtype=np.int32)
    ids = trie.label_ids[label]
    index = {int(node): position for position, node in enumerate(kept)}
    prefixes = [trie.prefixes[node] for node in kept]
    return Nodes(
        token=np.array([prefix[-1] if prefix else start_token for prefix in prefixes], dtype=np.int32),
        parent=np.array([index.get(int(trie.parents[node]), -1) for node in kept], dtype=np.int32),
        trie=kept,
        target=np.array(
            [ids[len(prefix)] if ids[: len(prefix)] == prefix else -1 for prefix in prefixes], dtype=np.int32
        ),
    )


def target_nodes(path: list[int], start_token: int) -> Nodes:
    """Return the nodes of an open target, teacher-forced: its tokens shifted by one."""
    return Nodes(
        token=np.array([start_token, *path[:-1]], dtype=np.int32),
        parent=np.arange(-1, len(path) - 1, dtype=np.int32),
        trie=np.full(len(path), -1, dtype=np.int32),
        target=np.array(path, dtype=np.int32),
    )
