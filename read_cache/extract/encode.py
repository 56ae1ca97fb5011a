"""Rows to token ids, labels and decoder nodes."""

import contextlib
import dataclasses
import json
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from read_cache.errors import UserError
from read_cache.extract.config import OnLong
from read_cache.extract.rows import Rows
from read_cache.tasks import Task
from read_cache.trie import LabelTrie


@dataclasses.dataclass(frozen=True)
class Nodes:
    """The decoder nodes of one example, each [nodes] int32; see `store/schema.py`."""

    token: np.ndarray
    parent: np.ndarray
    trie: np.ndarray
    target: np.ndarray


@dataclasses.dataclass(frozen=True)
class EncodedSplit:
    """One split, in the protocol's order."""

    input_ids: list[np.ndarray]
    """Encoder tokens of each example, [tokens] int32, eos last."""
    nodes: list[Nodes]
    label: np.ndarray
    """[examples] int32; -1 for open targets."""
    score: np.ndarray
    """[examples] float32: the gold value the metric compares with."""
    truncated: int
    """Sources that were longer than the limit."""


class Encoder:
    """Turns a task's rows into tokens for one backbone's tokenizer."""

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        start_token: int,
        max_source_length: int,
        on_long: OnLong = "truncate",
    ) -> None:
        self.task, self.tokenizer, self.start_token = task, tokenizer, start_token
        self.max_source_length, self.on_long = max_source_length, on_long
        self.label_ids = tuple(tuple(ids) for ids in self._tokenise(list(task.labels))) if task.labels else ()
        self.trie = LabelTrie(self.label_ids) if task.labels else None
        self.cut = 0
        """Texts that were cut to the limit so far."""

    def encode(self, rows: Rows, split: str) -> EncodedSplit:
        """Encode a split. Training rows get the gold path's nodes, others every node of the label trie."""
        for row in rows:
            self._check_columns(row, split)
        texts = [self.source_text(row, f"{split} row {index}") for index, row in enumerate(rows)]
        ids = self._tokenise(texts)
        too_long = [index for index, tokens in enumerate(ids) if len(tokens) > self.max_source_length]
        if too_long and self.on_long == "error":
            raise UserError(
                f"{split} row {too_long[0]} has {len(ids[too_long[0]])} tokens, more than the limit of "
                f"{self.max_source_length} ({len(too_long)} rows do): raise --max-source-length, or let them be cut "
                "with --on-long truncate"
            )
        inputs = [self._cut(tokens) for tokens in ids]
        labels, scores, nodes = self._targets(rows, split)
        return EncodedSplit(inputs, nodes, labels, scores, len(too_long))

    def encode_texts(self, texts: list[str]) -> list[np.ndarray]:
        """Encoder tokens of each text, [tokens] int32, cut to the limit."""
        return [self._cut(tokens) for tokens in self._tokenise(texts)]

    def _cut(self, tokens: list[int]) -> np.ndarray:
        """At most `max_source_length` tokens, eos still last."""
        limit = self.max_source_length
        if len(tokens) > limit:
            self.cut += 1
            tokens = [*tokens[: limit - 1], tokens[-1]]
        return np.array(tokens, dtype=np.int32)

    def source_text(self, row: dict[str, Any], where: str) -> str:
        """The row's source text, character by character as the template says."""
        values = {field: row[field] for field in self.task.text_fields}
        for field, value in values.items():
            if not isinstance(value, (str, int, float)):
                raise UserError(f"{where}: {field!r} is {value!r}, expected text")
        if not any(str(value).strip() for value in values.values()):
            raise UserError(f"{where}: the text is empty ({', '.join(values)})")
        text = self.task.template.format(**values)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: the text is not Unicode: {error}") from error
        return text

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        ids = self.tokenizer(texts, verbose=False)["input_ids"]
        eos = self.tokenizer.eos_token_id
        return [tokens if tokens and tokens[-1] == eos else [*tokens, eos] for tokens in ids]

    def _check_columns(self, row: dict[str, Any], split: str) -> None:
        for field in (*self.task.text_fields, *self.task.target_fields):
            if field not in row:
                raise UserError(
                    f"{split} rows have no column {field!r}, which task {self.task.name!r} needs; "
                    f"they have: {', '.join(row)}"
                )

    def _targets(self, rows: Rows, split: str) -> tuple[np.ndarray, np.ndarray, list[Nodes]]:
        if self.trie is None:
            texts = [self._target_text(row, f"{split} row {index}") for index, row in enumerate(rows)]
            paths = self._tokenise(texts)
            nothing = np.full(len(rows), -1, dtype=np.int32)
            return nothing, nothing.astype(np.float32), [self._open_nodes(path) for path in paths]
        scores = [self._score(row, f"{split} row {index}") for index, row in enumerate(rows)]
        labels = np.array([self._label_of(score) for score in scores], dtype=np.int32)
        nodes_of = self.training_nodes if split == "train" else self.evaluation_nodes
        by_label = [nodes_of(label) for label in range(len(self.task.labels))]
        return labels, np.array(scores, dtype=np.float32), [by_label[label] for label in labels]

    def _target_text(self, row: dict[str, Any], where: str) -> str:
        values = {field: row[field] for field in self.task.target_fields}
        for field, value in values.items():
            if not isinstance(value, (str, int, float)):
                raise UserError(f"{where}: {field!r} is {value!r}, expected text")
        text = self.task.target.format(**values)
        if not text.strip():
            raise UserError(f"{where}: the target is empty")
        return text

    def _score(self, row: dict[str, Any], where: str) -> float:
        """A label id, or the row's own number where labels are scores."""
        value, labels = row[self.task.label_field], self.task.labels
        if self.task.scores:
            low, high = float(labels[0]), float(labels[-1])
            if isinstance(value, str):
                with contextlib.suppress(ValueError):
                    value = float(value)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise UserError(f"{where}: score {value!r} is no number from {labels[0]} to {labels[-1]}")
            return float(value)
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

    def _label_of(self, score: float) -> int:
        """The nearest label, halves to the even one, as T5 rounds STS-B."""
        if not self.task.scores:
            return int(score)
        values = [float(label) for label in self.task.labels]
        return round(round(float(np.interp(score, values, np.arange(len(values)))), 6))

    def training_nodes(self, label: int) -> Nodes:
        """The nodes on the label's path."""
        assert self.trie is not None
        return self._closed_nodes(label, self.trie.gold_nodes(label))

    def evaluation_nodes(self, label: int) -> Nodes:
        """Every node of the label trie."""
        assert self.trie is not None
        return self._closed_nodes(label, np.arange(len(self.trie.prefixes), dtype=np.int32))

    def _closed_nodes(self, label: int, kept: np.ndarray) -> Nodes:
        assert self.trie is not None
        trie, ids = self.trie, self.label_ids[label]
        local = {int(node): place for place, node in enumerate(kept)}
        prefixes = [trie.prefixes[node] for node in kept]
        return Nodes(
            token=np.array([prefix[-1] if prefix else self.start_token for prefix in prefixes], dtype=np.int32),
            parent=np.array([local.get(int(trie.parents[node]), -1) for node in kept], dtype=np.int32),
            trie=kept,
            target=np.array(
                [ids[len(prefix)] if ids[: len(prefix)] == prefix else -1 for prefix in prefixes], dtype=np.int32
            ),
        )

    def _open_nodes(self, path: list[int]) -> Nodes:
        return Nodes(
            token=np.array([self.start_token, *path[:-1]], dtype=np.int32),
            parent=np.arange(-1, len(path) - 1, dtype=np.int32),
            trie=np.full(len(path), -1, dtype=np.int32),
            target=np.array(path, dtype=np.int32),
        )
