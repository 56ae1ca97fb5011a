"""States that another program has computed, in the place of a backbone that computes them."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from read_cache.backbones.base import Backbone, Source, StackTrace, Trace
from read_cache.backbones.tokens import TokenBatch
from read_cache.errors import UserError
from read_cache.extraction.encode import EncodedSplit, label_of, row_score
from read_cache.store.spec import IMPORTED, BackboneSpec, StackSpec
from read_cache.tasks import Task

STATES, TOKENS, MASK, SEGMENT = "hidden_states", "input_ids", "attention_mask", "segment"
"""Columns of rows."""
STACK = "encoder"
"""Name of the one stack of an imported store."""


@dataclasses.dataclass(frozen=True)
class StatesBatch(TokenBatch):
    """The tokens of examples with their states."""

    states: Tensor
    """[L+1, B, S, D] float32; padding is zero."""


class ImportedStates(Backbone):
    """The states of rows, as a backbone of one stack that attends to nothing."""

    family, language_model = IMPORTED, False

    def __init__(self, name: str, splits: Mapping[str, Sequence[Any]]) -> None:
        """Take rows by split; see `read_cache.import_states`. `encode` reads their states for the first time."""
        self.name, self.revision, self.device, self.splits = name, "", "cpu", splits
        self.shape, self.segments = (0, 0), False
        """(states, width) of all rows; True if they have the column `segment`."""
        self._states = hashlib.sha256()

    def encode(self, task: Task) -> dict[str, EncodedSplit]:
        """Return tokens and labels of all rows, whose states are checked. Raises UserError, which names a bad row."""
        encoded = {}
        for split, rows in self.splits.items():
            arrays: dict[str, list[np.ndarray]] = {}
            scores = []
            for number in range(len(rows)):
                row, where = rows[number], f"{split} row {number}"
                if not isinstance(row, Mapping):
                    raise UserError(f"{where} is of type {type(row).__name__}, expected a dict: one value a column")
                scores.append(row_score(task, row, where))
                states, integers = read_row(row, where)
                self._check(states, SEGMENT in integers, where)
                self._states.update(f"{where} {tuple(states.shape)}".encode() + states.numpy().tobytes())
                for name, values in integers.items():
                    arrays.setdefault(name, []).append(values)
            labels = np.array([label_of(task, score) for score in scores], np.int32)
            encoded[split] = EncodedSplit({STACK: arrays}, labels, np.array(scores, np.float32), truncated=0)
        return encoded

    def _check(self, states: Tensor, segments: bool, where: str) -> None:
        """Raise UserError if a row's states, [L+1, n, D], are not finite or not like those of the first row."""
        shape = states.shape[0], states.shape[2]
        if self.shape == (0, 0):
            self.shape, self.segments = shape, segments
        if shape != self.shape or segments != self.segments:
            found, first = (f"{a} states of width {b}" for a, b in (shape, self.shape))
            raise UserError(f"{where} has {found}, the first row {first}, and {SEGMENT} must be in all rows or in none")
        if not states.isfinite().all():
            raise UserError(f"{where} has {STATES} that are not finite: leave the row out, or compute them in float32")

    @property
    def stacks(self) -> tuple[StackSpec, ...]:
        states, width = self.shape
        return (StackSpec(name=STACK, layers=states - 1, width=width, heads=1, segments=self.segments),)

    @cached_property
    def spec(self) -> BackboneSpec:
        """The name and shape of the states, whose digest is that of both: other rows of the model have the same."""
        digest = hashlib.sha256(f"{IMPORTED} {self.name} {self.shape}".encode()).hexdigest()
        values = {"revision": "", "digest": digest, "family": IMPORTED, "parameters": 0, "language_model": False}
        return BackboneSpec(name=self.name, stacks=self.stacks, **values)

    tokenizer_digest = ""

    @property
    def made_with(self) -> dict[str, str]:
        return {"states": self._states.hexdigest()}

    def tokenize(self, texts: list[tuple[str, ...]], limit: int) -> list[Source]:
        raise NotImplementedError("rows of imported states have their tokens already: `encode` takes them")

    def batch(self, split: str, plan: Mapping[str, np.ndarray], rows: Sequence[int]) -> TokenBatch:
        numbers = plan["example_id"][rows].tolist()
        states = [read_row(self.splits[split][number], f"{split} row {number}")[0] for number in numbers]
        for number, length, of in zip(numbers, plan[f"{STACK}/length"][rows].tolist(), states, strict=True):
            first = (self.shape[0], length, self.shape[1])
            if of.shape != first:
                raise UserError(
                    f"{split} row {number} has states of shape {tuple(of.shape)}, and had {first} when it was read "
                    "first: import rows that do not change"
                )
        padded = torch.nn.utils.rnn.pad_sequence([of.transpose(0, 1) for of in states], batch_first=True)
        return StatesBatch(super().batch(split, plan, rows).stacks, padded.permute(2, 0, 1, 3).contiguous())

    def forward(self, tokens: TokenBatch, attention: bool = False, states: bool = True) -> Trace:
        assert isinstance(tokens, StatesBatch)
        return {STACK: StackTrace(list(tokens.states))}

    @property
    def pad_token(self) -> int:
        return 0


def formatted(rows: Any) -> Any:
    """Return rows that can be read in any order; the lists of a `datasets.Dataset` as tensors. Raises UserError."""
    if isinstance(rows, Sequence):
        return rows
    if not (hasattr(rows, "with_format") and hasattr(rows, "__len__")):
        raise UserError(
            f"rows of a split are a {type(rows).__name__}, expected a datasets.Dataset or a list of rows, which are "
            "read twice: convert them with a method of datasets.Dataset, such as from_pandas or from_generator"
        )
    columns = [name for name in (STATES, TOKENS, MASK, SEGMENT) if name in rows.features]
    lists = [name for name in columns if getattr(rows.features[name], "dtype", "") != "string"]
    return rows.with_format("torch", columns=lists, output_all_columns=True)


def read_row(row: Mapping[str, Any], where: str) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Return a row's states, [L+1, n, D] float32, and its plan arrays by name, [n] each. Raises UserError."""
    if STATES not in row:
        raise UserError(f"{where} has no column {STATES!r}; it has: {', '.join(row)}")
    in_file = isinstance(row[STATES], str | Path)
    names = (MASK, SEGMENT) if in_file else (TOKENS, MASK, SEGMENT)
    columns = {name: as_tensor(row[name], where) for name in names if row.get(name) is not None}
    if in_file:
        states, columns[TOKENS] = read_file(Path(row[STATES]), where)
    else:
        states = as_tensor(row[STATES], where)
    if not states.is_floating_point():
        raise UserError(
            f"{where}: {STATES} has the dtype {states.dtype}, expected floating-point numbers; uint16 is how a store "
            "keeps bfloat16, which read_cache.export_states decodes"
        )
    if states.ndim == 2:
        states = states[:, None]
    if states.ndim != 3 or states.shape[0] < 2 or 0 in states.shape:
        raise UserError(
            f"{where}: {STATES} has the shape {tuple(states.shape)}, expected [states, tokens, width] or "
            "[states, width] with at least two states"
        )
    count = states.shape[1]
    if wrong := [name for name, values in columns.items() if values.shape != (count,)]:
        raise UserError(
            f"{where}: {wrong[0]} has the shape {tuple(columns[wrong[0]].shape)}, expected [{count}] as {STATES} has "
            f"{count} tokens"
        )
    mask = columns.pop(MASK, torch.ones(count)).bool()
    if not mask.any():
        raise UserError(f"{where}: {MASK} is zero everywhere, expected at least one token")
    tokens = columns.get(TOKENS, torch.zeros(count))[mask]
    integers = {"token": whole(tokens, -(2**31), 2**31 - 1, f"{where}: {TOKENS}").astype(np.int32)}
    if SEGMENT in columns:
        integers["segment"] = whole(columns[SEGMENT][mask], -1, 127, f"{where}: {SEGMENT}").astype(np.int8)
        integers["token_type"] = np.zeros_like(integers["segment"])
    return states[:, mask].float().contiguous(), integers


def whole(values: Tensor, lowest: int, highest: int, what: str) -> np.ndarray:
    """Return numbers as they are. Raises UserError, which begins with `what`, unless all are integers in the range."""
    numbers = values.double().numpy()
    wrong = numbers[~((numbers == numbers.round()) & (numbers >= lowest) & (numbers <= highest))]
    if len(wrong):
        raise UserError(f"{what} has the value {wrong[0]:.10g}, expected whole numbers from {lowest} to {highest}")
    return numbers


def as_tensor(values: Any, where: str) -> Tensor:
    """Return numbers of a row as a tensor. Raises UserError for other values, and for ragged lists."""
    try:
        tensor = torch.as_tensor(values if hasattr(values, "dtype") else np.array(values)).detach().cpu()
        if tensor.is_complex():
            raise TypeError("complex numbers")
        return tensor
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: found {str(values)[:60]!r}, expected numbers in an array ({error})") from error


def read_file(path: Path, where: str) -> tuple[Tensor, Tensor]:
    """Return the states, [states, tokens, width], and the token ids of a file that vLLM wrote for one request."""
    try:
        tensors = load_file(path)
        return tensors[STATES].transpose(0, 1), tensors["token_ids"]
    except (OSError, SafetensorError, KeyError, IndexError) as error:
        raise UserError(
            f"{where}: {path} cannot be read ({error}), expected vLLM's safetensors file with {STATES}, "
            "[tokens, states, width], and token_ids, [tokens]"
        ) from error
