"""A task's rows to tokens by stack, and labels."""

import dataclasses
from typing import Any

import numpy as np

from read_cache.backbones.base import Backbone, Nodes
from read_cache.backbones.texts import is_empty
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.extraction.labels import label_nodes, label_of, row_score, target_nodes, target_text
from read_cache.extraction.rows import Rows
from read_cache.tasks import Task
from read_cache.trie import LabelTrie

NAMED_ROWS = 5
"""A message names at most this many rows."""


@dataclasses.dataclass(frozen=True)
class EncodedSplit:
    """One split, in the protocol's order."""

    row: np.ndarray
    """[examples] int64: row number in the protocol's split."""
    stacks: dict[str, dict[str, list[np.ndarray]]]
    """By stack, then by plan array (`token`, `parent`, …): each example's values, [positions]."""
    label: np.ndarray
    """[examples] int32; -1 for open targets."""
    score: np.ndarray
    """[examples] float32: the gold value the metric compares with."""
    truncated: int
    """Number of rows that were longer than the limit."""
    skipped: int
    """Number of rows without text that were left out."""


class Encoder:
    """Turns a task's rows into tokens and labels for one backbone."""

    def __init__(self, task: Task, backbone: Backbone, config: ExtractConfig) -> None:
        """Raise UserError for a label without text."""
        self.task, self.backbone, self.config = task, backbone, config
        for number, label in enumerate(task.labels):
            if not label.strip():
                raise UserError(f"task {task.name!r}: label number {number} is empty, expected text")
        label_ids = backbone.label_ids(task)
        self.trie = LabelTrie(label_ids) if label_ids else None

    def encode(self, rows: Rows, split: str) -> EncodedSplit:
        """Encode a split. Training rows get the nodes of the gold path, others every node of the label trie.

        Raises UserError, which names the rows that cannot be encoded.
        """
        task, limit = self.task, self.config.max_source_length
        kept = self._rows_with_text(rows, split)
        named = {f"{split} row {index}": rows[index] for index in kept}
        sources = self.backbone.tokenize([self.backbone.texts(task, row, name) for name, row in named.items()], limit)
        cut = [name for name, source in zip(named, sources, strict=True) if source.cut]
        if cut and self.config.on_long == "error":
            raise UserError(
                f"{cut[0]} has more tokens than the limit of {limit} ({len(cut)} of {len(kept)} rows do): "
                "raise max_source_length, or set on_long to truncate"
            )
        scores = [row_score(task, row, name) if task.labels else -1.0 for name, row in named.items()]
        labels = [label_of(task, score) if task.labels else -1 for score in scores]
        nodes = self._nodes(named, labels, gold_only=split == "train")
        stacks: dict[str, dict[str, list[np.ndarray]]] = {}
        for source, node in zip(sources, nodes, strict=True):
            for stack, arrays in self.backbone.arrange(source, node).items():
                for name, values in arrays.items():
                    stacks.setdefault(stack, {}).setdefault(name, []).append(values)
        return EncodedSplit(
            np.array(kept, dtype=np.int64),
            stacks,
            np.array(labels, dtype=np.int32),
            np.array(scores, dtype=np.float32),
            truncated=len(cut),
            skipped=len(rows) - len(kept),
        )

    def _rows_with_text(self, rows: Rows, split: str) -> list[int]:
        """Return the numbers of the rows that have text. Raises UserError for a missing column, and for empty rows."""
        task = self.task
        for number, row in enumerate(rows):
            for field in (*task.text_fields, *task.target_fields):
                if field not in row:
                    raise UserError(
                        f"{split} row {number} has no column {field!r}, which task {task.name!r} needs; it has: "
                        f"{', '.join(row)}"
                    )
        empty = [index for index, row in enumerate(rows) if is_empty(task, row)]
        fields = ", ".join(task.text_fields)
        if empty and self.config.on_empty == "error":
            count = "1 row has" if len(empty) == 1 else f"{len(empty)} rows have"
            numbers = ", ".join(map(str, empty[:NAMED_ROWS])) + (", …" if len(empty) > NAMED_ROWS else "")
            raise UserError(
                f"{split}: {count} no text ({fields}), row{'s' if len(empty) > 1 else ''} {numbers}: "
                "correct the data, or set on_empty to skip"
            )
        if len(empty) == len(rows):
            raise UserError(f"{split}: no row has any text ({fields})")
        return sorted(set(range(len(rows))) - set(empty))

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
