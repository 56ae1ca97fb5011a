"""Rows to tokens by stack, and labels."""

import dataclasses

import numpy as np

from read_cache.backbones.base import Backbone, Nodes, Source
from read_cache.backbones.texts import is_empty
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.extraction.labels import label_of, row_score, target_text
from read_cache.extraction.nodes import all_nodes, gold_nodes, open_nodes
from read_cache.extraction.rows import Rows
from read_cache.tasks import Task
from read_cache.trie import LabelTrie

NAMED_ROWS = 5
"""Rows that a message names at most."""


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
        """Raise UserError for a task that the backbone cannot be used for."""
        self.task, self.backbone, self.config = task, backbone, config
        if any(not label.strip() for label in task.labels):
            raise UserError(f"task {task.name!r}: label number {_first_empty(task.labels)} is empty, expected text")
        self.label_ids = backbone.label_ids(task)
        self.trie = LabelTrie(self.label_ids) if self.label_ids else None
        if task.target and not backbone.language_model:
            backbone.target_ids([])

    def encode(self, rows: Rows, split: str) -> EncodedSplit:
        """Encode a split. Training rows get the gold path's nodes, others every node of the label trie.

        Raises UserError that names the rows that cannot be encoded.
        """
        task = self.task
        for row in rows:
            self._check_columns(row, split)
        kept, skipped = self._with_text(rows, split)
        names = [f"{split} row {index}" for index in kept]
        texts = [self.backbone.texts(task, rows[i], where) for i, where in zip(kept, names, strict=True)]
        sources = self.backbone.tokenize(texts, self.config.max_source_length)
        self._check_lengths(sources, names)
        label, score = np.full(len(kept), -1, dtype=np.int32), np.full(len(kept), -1, dtype=np.float32)
        if task.labels:
            scores = [row_score(task, rows[i], where) for i, where in zip(kept, names, strict=True)]
            label = np.array([label_of(task, value) for value in scores], dtype=np.int32)
            score = np.array(scores, dtype=np.float32)
        nodes = self._nodes(rows, kept, names, label, split)
        stacks: dict[str, dict[str, list[np.ndarray]]] = {}
        for source, node in zip(sources, nodes, strict=True):
            for stack, arrays in self.backbone.arrange(source, node).items():
                for name, values in arrays.items():
                    stacks.setdefault(stack, {}).setdefault(name, []).append(values)
        truncated = sum(source.cut for source in sources)
        return EncodedSplit(np.array(kept, dtype=np.int64), stacks, label, score, truncated, skipped)

    def _nodes(
        self, rows: Rows, kept: list[int], names: list[str], label: np.ndarray, split: str
    ) -> list[Nodes] | list[None]:
        start = self.backbone.start_token
        if self.trie is not None:
            make = gold_nodes if split == "train" else all_nodes
            by_label = [make(self.trie, start, number) for number in range(len(self.label_ids))]
            return [by_label[number] for number in label]
        if self.task.target:
            texts = [target_text(self.task, rows[i], where) for i, where in zip(kept, names, strict=True)]
            return [open_nodes(path, start) for path in self.backbone.target_ids(texts)]
        return [None] * len(kept)

    def _with_text(self, rows: Rows, split: str) -> tuple[list[int], int]:
        """(numbers of the rows that have text, number of the others)."""
        empty = [index for index, row in enumerate(rows) if is_empty(self.task, row)]
        if not empty:
            return list(range(len(rows))), 0
        fields = ", ".join(self.task.text_fields)
        if self.config.on_empty == "error":
            count = "1 row has" if len(empty) == 1 else f"{len(empty)} rows have"
            raise UserError(
                f"{split}: {count} no text ({fields}), {_rows(empty)}: correct the data, or set on_empty to skip"
            )
        kept = sorted(set(range(len(rows))) - set(empty))
        if not kept:
            raise UserError(f"{split}: no row has any text ({fields})")
        return kept, len(empty)

    def _check_lengths(self, sources: list[Source], names: list[str]) -> None:
        cut = [name for name, source in zip(names, sources, strict=True) if source.cut]
        if cut and self.config.on_long == "error":
            raise UserError(
                f"{cut[0]} has more tokens than the limit of {self.config.max_source_length} "
                f"({len(cut)} of {len(names)} rows do): raise max_source_length, or set on_long to truncate"
            )

    def _check_columns(self, row: dict[str, object], split: str) -> None:
        for field in (*self.task.text_fields, *self.task.target_fields):
            if field not in row:
                raise UserError(
                    f"{split} rows have no column {field!r}, which task {self.task.name!r} needs; "
                    f"they have: {', '.join(row)}"
                )


def _first_empty(labels: tuple[str, ...]) -> int:
    return next(number for number, label in enumerate(labels) if not label.strip())


def _rows(numbers: list[int]) -> str:
    """Row numbers for a message, the first few."""
    shown = ", ".join(str(number) for number in numbers[:NAMED_ROWS])
    return f"row {shown}" if len(numbers) == 1 else f"rows {shown}{', …' if len(numbers) > NAMED_ROWS else ''}"
