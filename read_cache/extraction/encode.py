"""A task's rows to tokens by stack, and labels."""

import dataclasses
from typing import Any

import numpy as np

from read_cache.backbones.base import Backbone, Nodes
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.extraction.labels import label_nodes, label_of, row_score, target_nodes, target_text
from read_cache.extraction.rows import Rows
from read_cache.tasks import Task
from read_cache.trie import LabelTrie


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
        for name, row in named.items():
            if absent := [field for field in (*task.text_fields, *task.target_fields) if field not in row]:
                raise UserError(
                    f"{name} has no column {absent[0]!r}, which task {task.name!r} needs; it has: {', '.join(row)}"
                )
        sources = self.backbone.tokenize([self.backbone.texts(task, row, name) for name, row in named.items()], limit)
        scores = [row_score(task, row, name) if task.labels else -1.0 for name, row in named.items()]
        labels = [label_of(task, score) if task.labels else -1 for score in scores]
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
