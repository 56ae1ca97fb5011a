"""A task's rows to tokens by stack, and labels with the decoder nodes at which they are scored."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from read_cache.backbones.base import Backbone, Nodes
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.extraction.rows import Rows
from read_cache.tasks import Task
from read_cache.trie import LabelTrie


def row_score(task: Task, row: Mapping[str, Any], where: str) -> float:
    """Return a row's label id, or its own number if the task's labels are scores.

    Raises UserError, which names the row as `where`.
    """
    value, labels = task.value(row, task.label_field, where), task.labels
    if getattr(value, "ndim", None) == 0:  # a number of numpy or torch, in rows of imported states
        value = value.item()
    if task.scores:
        return _number(task, value, where)
    if text := isinstance(value, str):  # a CSV file holds numbers as text
        if value in labels:
            return float(labels.index(value))
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, float) and value.is_integer():  # pandas writes 1.0 for 1 if values of the column are missing
        value = int(value)
    if isinstance(value, int) and not text:
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
    values = {field: task.value(row, field, where) for field in task.target_fields}
    for field, value in values.items():
        if not isinstance(value, (str, int, float)):
            raise UserError(f"{where}: {field!r} is {value!r}, expected text")
    text = task.target.format(**values)
    if not text.strip():
        raise UserError(f"{where}: the target is empty")
    return text


def label_nodes(trie: LabelTrie, start_token: int, label: int, gold_only: bool) -> Nodes:
    """Return the nodes on a label's path alone, or every node of the trie, with the gold tokens of that label."""
    kept = [node for node, _ in trie.paths[label]] if gold_only else list(range(len(trie.prefixes)))
    ids, prefixes = trie.label_ids[label], [trie.prefixes[node] for node in kept]
    position = {prefix: index for index, prefix in enumerate(prefixes)}
    token = [prefix[-1] if prefix else start_token for prefix in prefixes]
    parent = [position[prefix[:-1]] if prefix else -1 for prefix in prefixes]
    target = [ids[len(prefix)] if ids[: len(prefix)] == prefix else -1 for prefix in prefixes]
    return Nodes(*(np.array(values, dtype=np.int32) for values in (token, parent, kept, target)))


def target_nodes(path: list[int], start_token: int) -> Nodes:
    """Return the nodes of an open target, teacher-forced: its tokens shifted by one."""
    return Nodes(
        token=np.array([start_token, *path[:-1]], dtype=np.int32),
        parent=np.arange(-1, len(path) - 1, dtype=np.int32),
        trie=np.full(len(path), -1, dtype=np.int32),
        target=np.array(path, dtype=np.int32),
    )


@dataclasses.dataclass(frozen=True)
class EncodedSplit:
    """One split, in the protocol's order."""

    stacks: dict[str, dict[str, list[np.ndarray]]]
    """By stack, then by plan array (`token`, `parent`, …): each example's values, [positions]."""
    label: np.ndarray
    """[examples] int32; -1 for open targets."""
    score: np.ndarray
    """[examples] float32: the gold value the metric compares with."""
    truncated: int
    """Number of rows that were longer than the limit."""


class Encoder:
    """Turns a task's rows into tokens and labels for one backbone."""

    def __init__(self, task: Task, backbone: Backbone, config: ExtractConfig) -> None:
        self.task, self.backbone, self.config = task, backbone, config
        label_ids = backbone.label_ids(task)
        self.trie = LabelTrie(label_ids) if label_ids else None

    def encode(self, rows: Rows, split: str) -> EncodedSplit:
        """Encode a split. Training rows get the nodes of the gold path, others every node of the label trie.

        Raises UserError, which names the rows that cannot be encoded.
        """
        task, limit = self.task, self.config.max_source_length
        named = {f"{split} row {index}": row for index, row in enumerate(rows)}
        texts = [self.backbone.texts(task, row, name) for name, row in named.items()]
        scores = [row_score(task, row, name) if task.labels else -1.0 for name, row in named.items()]
        labels = [label_of(task, score) if task.labels else -1 for score in scores]
        sources = self.backbone.tokenize(texts, limit)
        nodes = self._nodes(named, labels, gold_only=split == "train")
        stacks: dict[str, dict[str, list[np.ndarray]]] = {}
        for source, node in zip(sources, nodes, strict=True):
            for stack, arrays in self.backbone.arrange(source, node).items():
                for name, values in arrays.items():
                    stacks.setdefault(stack, {}).setdefault(name, []).append(values)
        return EncodedSplit(
            stacks,
            np.array(labels, dtype=np.int32),
            np.array(scores, dtype=np.float32),
            truncated=sum(source.cut for source in sources),
        )

    def _nodes(self, named: dict[str, dict[str, Any]], labels: list[int], gold_only: bool) -> list[Nodes] | list[None]:
        """Return each row's decoder nodes; None for a backbone without a language model."""
        start = self.backbone.start_token
        if self.trie is not None:
            by_label = [label_nodes(self.trie, start, label, gold_only) for label in range(len(self.task.labels))]
            return [by_label[label] for label in labels]
        if self.task.target:
            paths = self.backbone.target_ids([target_text(self.task, row, name) for name, row in named.items()])
            return [target_nodes(path, start) for path in paths]
        return [None] * len(labels)
