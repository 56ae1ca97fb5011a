"""From the examples of a store, or of a live backbone in the same format, to a `Batch`.

`pad` copies each example's slice of each array into a padded array, in the stored dtype, on whatever device the parts
are: the reader threads' work. `Collator.batch` makes tensors of it; networks normalise what they use (`inputs.py`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from read_cache.errors import StoreError
from read_cache.loader.batch import Batch, Positions, Projection, StackBatch, Targets
from read_cache.store.quantization import Calibration
from read_cache.store.schema import Format, activation_arrays
from read_cache.store.spec import BackboneSpec, StackSpec

Values = Any
"""A numpy array, or a tensor on a device: `pad` slices and assigns, which is the same for both."""
POSITION_ARRAYS = ("segment", "parent", "trie", "target")
"""Plan arrays of a stack that a batch carries, padded with -1."""


@dataclasses.dataclass(frozen=True)
class ExampleArrays:
    """One example's slice of every array of a store."""

    activations: Mapping[str, Values]
    """By array name: [state or layer, (head,) entries, (width)]; bf16 states as uint16 bits."""
    positions: Mapping[str, np.ndarray]
    """By array name, such as `decoder/trie`: [positions] integers."""
    lengths: Mapping[str, int]
    """By stack: number of positions."""
    row: int
    label: int
    score: float


@dataclasses.dataclass(frozen=True)
class PaddedExamples:
    """Examples side by side, in the dtypes of the store."""

    arrays: dict[str, Values]
    """By array name: [state or layer, (H,) B, S, (D or S)]; padding is zero."""
    positions: dict[str, Tensor]
    """By array name: [B, S] int64; padding is -1."""
    lengths: dict[str, list[int]]
    """By stack: positions of each example."""
    rows: np.ndarray
    label: np.ndarray
    score: np.ndarray


def pad(examples: Sequence[ExampleArrays], stacks: Sequence[StackSpec]) -> PaddedExamples:
    """Pad examples to the longest of them."""
    lengths = {stack.name: [example.lengths[stack.name] for example in examples] for stack in stacks}
    by_name = {stack.name: stack for stack in stacks}
    arrays = {}
    for name in examples[0].activations:
        values = [example.activations[name] for example in examples]
        stack, _, kind = name.partition("/")
        to = lengths[stack]
        if kind == "cross_attention":
            arrays[name] = _pad_weights(values, to, lengths[by_name[stack].attends_to or ""], causal=False)
        elif kind == "self_attention":
            arrays[name] = _pad_weights(values, to, to, by_name[stack].causal)
        else:
            arrays[name] = _pad_states(values, to)
    return PaddedExamples(
        arrays,
        {name: _pad_positions([e.positions[name] for e in examples]) for name in examples[0].positions},
        lengths,
        np.array([example.row for example in examples], np.int64),
        np.array([example.label for example in examples], np.int64),
        np.array([example.score for example in examples], np.float32),
    )


def _pad_states(values: list[Values], counts: list[int]) -> Values:
    """[states, B, S, (D)]."""
    longest = max(counts)
    padded = _empty(values[0], (len(values[0]), len(values), longest, *values[0].shape[2:]))
    for place, (state, count) in enumerate(zip(values, counts, strict=True)):
        padded[:, place, :count] = state
        if count < longest:
            padded[:, place, count:] = 0
    return padded


def _pad_weights(values: list[Values], to: list[int], source: list[int], causal: bool) -> Values:
    """[L, (H,) B, to, from]."""
    padded = _empty(values[0], (*values[0].shape[:-1], len(values), max(to), max(source)))
    padded[...] = 0
    for place, (weights, rows, columns) in enumerate(zip(values, to, source, strict=True)):
        if causal:
            padded[(..., place, *_triangle(rows))] = weights
        else:
            padded[..., place, :rows, :columns] = weights.reshape(*weights.shape[:-1], rows, columns)
    return padded


@lru_cache(maxsize=512)
def _triangle(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (to, from) of the entries of a lower triangle, in the order they are stored."""
    return np.tril_indices(size)


def _empty(like: Values, shape: tuple[int, ...]) -> Values:
    return like.new_empty(shape) if isinstance(like, Tensor) else np.empty(shape, like.dtype)


def _pad_positions(values: list[np.ndarray]) -> Tensor:
    """[B, S] int64, padded with -1."""
    padded = np.full((len(values), max(map(len, values))), -1, np.int64)
    for row, positions in zip(padded, values, strict=True):
        row[: len(positions)] = positions
    return torch.from_numpy(padded)


def as_tensor(values: np.ndarray) -> Tensor:
    """Return a tensor over the same memory; uint16 holds bits that no other dtype would keep, and becomes int16."""
    return torch.from_numpy(values.view(np.int16) if values.dtype == np.uint16 else values)


class Collator:
    """Makes batches of padded examples of one store, or of a live backbone in the same format."""

    def __init__(
        self,
        spec: BackboneSpec,
        format: Format,
        calibration: Calibration | None = None,
        head_tokens: np.ndarray | None = None,
        final_norm: Mapping[str, np.ndarray] | None = None,
        device: str = "cpu",
        attention: bool = True,
        raw: bool = False,
    ) -> None:
        """`format.layers` are the layers that are read; `head_tokens` [C] int64, sorted, are the LM head's rows.

        `attention` reads attention weights. `raw` reads what `StackBatch.raw_state` needs; it raises StoreError if a
        final norm cannot be undone.
        """
        self.spec, self.format, self.device, self.attention, self.raw = spec, format, device, attention, raw
        self.head_tokens = None if head_tokens is None else torch.from_numpy(head_tokens)
        arrays = calibration.arrays() if calibration else {}
        self.calibration = {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}
        self.projection = self._projection() if format.rank else None
        self.norm_weight = {name: torch.from_numpy(w).to(device) for name, w in (final_norm or {}).items()}
        for name, weight in self.norm_weight.items():
            if raw and not bool((weight.abs() > 1e-6).all()):
                raise StoreError(
                    f"the {name}'s final norm of {spec.name} has weights that are zero, so the raw output of its last "
                    "block cannot be restored: train networks that need no raw states"
                )

    @property
    def arrays(self) -> list[str]:
        """Names of the activation arrays that are read."""
        skipped = () if self.raw else ("rms", "raw_rms")
        names = [spec.name for spec in activation_arrays(self.spec, self.format)]
        names = [name for name in names if name.partition("/")[2] not in skipped]
        return [name for name in names if self.attention or not name.endswith("attention")]

    def batch(self, padded: PaddedExamples) -> Batch:
        """Return a batch on the device."""
        real = {name: self._real(lengths) for name, lengths in padded.lengths.items()}
        stacks = {name: self.stack(name, padded.arrays, real[name], padded.positions) for name in real}
        return Batch(stacks, self.final(padded.arrays, stacks), self.targets(padded, real))

    def targets(self, padded: PaddedExamples, real: Mapping[str, Tensor]) -> Targets:
        """Return what heads compare with."""
        readout, positions = self.spec.readout, padded.positions
        trie, target = positions.get(f"{readout}/trie"), positions.get(f"{readout}/target")
        index = None
        if trie is not None and target is not None:
            assert self.head_tokens is not None
            if len(self.spec.stacks) == 1:  # the readout positions follow the tokens of a prompt
                index = _places((trie >= 0) | (target >= 0))
                trie, target = trie.gather(1, index), target.gather(1, index)
            target = torch.where(target >= 0, torch.searchsorted(self.head_tokens, target), -1)
        segments = {name: positions.get(f"{name}/segment") for name in real}
        return Targets(
            padded.rows,
            torch.from_numpy(padded.label).to(self.device),
            torch.from_numpy(padded.score).to(self.device),
            None if trie is None else trie.to(self.device),
            None if target is None else target.to(self.device),
            {name: Positions(mask, _on(segments[name], self.device)) for name, mask in real.items()},
            _on(index, self.device),
        )

    def stack(
        self, name: str, arrays: Mapping[str, Values], real_BS: Tensor, positions: Mapping[str, Tensor]
    ) -> StackBatch:
        """Return one stack of a batch."""
        calibrated = self.format.calibrated and name == self.format.first
        values, raw_rms = self._on_device(arrays[f"{name}/hidden"]), arrays.get(f"{name}/raw_rms")
        rms = arrays.get(f"{name}/rms")
        return StackBatch(
            name,
            self._decode(values) if calibrated else values,
            self._weights(arrays.get(f"{name}/self_attention")),
            self._weights(arrays.get(f"{name}/cross_attention")),
            real_BS,
            self.format.layers[name],
            self.projection if calibrated else None,
            not calibrated,
            None if rms is None else self._on_device(rms),
            None if raw_rms is None else self._on_device(raw_rms)[0],
            self.norm_weight.get(name),
            _on(positions.get(f"{name}/parent"), self.device),
        )

    def final(self, arrays: Mapping[str, Values], stacks: Mapping[str, StackBatch]) -> Tensor:
        """Return phi_N of the readout stack, [B, T, D] float32."""
        readout = self.spec.readout
        whole = arrays.get(f"{readout}/final")
        return (stacks[readout].values[-1] if whole is None else self._on_device(whole)[0]).float()

    def _decode(self, values: Tensor) -> Tensor:
        """Return normalised states, or their components, of a calibrated stack's stored values."""
        scale = self.calibration["scale"][:, None, None]
        if self.format.rank:
            return values.float().mul_(scale)
        mean, deviation = (self.calibration[name][:, None, None] for name in ("mean", "deviation"))
        return torch.addcmul(mean, values.float(), deviation * scale)

    def _projection(self) -> Projection:
        """expand = diag(deviation) basisᵀ."""
        expand = self.calibration["deviation"][:, :, None] * self.calibration["basis"].transpose(1, 2)
        return Projection(self.calibration["mean"], expand)

    def _weights(self, values: Values | None) -> Tensor | None:
        """Return attention weights, float32; None where there are none. See `store/schema.py` for uint8."""
        if values is None:
            return None
        weights = self._on_device(values)
        return (weights.float() / 255).square_() if weights.dtype == torch.uint8 else weights.float()

    def _on_device(self, values: Values) -> Tensor:
        """Return the stored values as a tensor; the bits of bfloat16 as bfloat16."""
        tensor = (values if isinstance(values, Tensor) else as_tensor(values)).to(self.device)
        return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor

    def _real(self, counts: list[int]) -> Tensor:
        return (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).to(self.device)


def _places(mask_BS: Tensor) -> Tensor:
    """Return [B, T] int64: the positions where the mask is True, in order; padded with a position where it is False."""
    count = int(mask_BS.sum(1).max())
    return torch.argsort(~mask_BS, dim=1, stable=True)[:, :count]


def _on(values: Tensor | None, device: str) -> Tensor | None:
    return None if values is None else values.to(device)
