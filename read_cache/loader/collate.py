"""From the examples of a store, or of a live backbone in the same format, to a `Batch`.

`pad` copies each example's slice of each array into a padded array, in the stored dtype, on whatever device the parts
are: the reader threads' work. `Collator.batch` makes tensors of it; networks normalise what they use (`inputs.py`).
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from read_cache.errors import StoreError
from read_cache.loader.batch import Batch, Positions, Projection, StackBatch, Targets
from read_cache.store.layout import pad_integers, plan_slices, triangle
from read_cache.store.reader import SplitReader
from read_cache.store.schema import ALL_TOKENS, Calibration, Format, activation_arrays
from read_cache.store.spec import BackboneSpec

Values = Any
"""A numpy array, or a tensor on a device: `pad` slices and assigns, which is the same for both."""
POSITION_ARRAYS = ("segment", "parent", "trie", "target")
"""Plan arrays of a stack that a batch carries, padded with -1."""


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
    """[B] int64: the examples' numbers in the split."""
    label: np.ndarray
    score: np.ndarray

    def pinned(self) -> "PaddedExamples":
        """Return the same in pinned memory, from which a GPU copies without waiting."""
        arrays = {name: as_tensor(values).pin_memory() for name, values in self.arrays.items()}
        return dataclasses.replace(self, arrays=arrays)


def pad(
    split: SplitReader, rows: np.ndarray, activations: Mapping[str, list[Values]], format: Format
) -> PaddedExamples:
    """Pad examples of a split to the longest of them.

    `rows` are their numbers, [B] int64; `activations`, which may be empty, holds each example's slice of the arrays by
    name: [state or layer, (head,) entries, (width)]. `format.positions` are the positions of the result.
    """
    plan, stacks = split.plan, {stack.name: stack for stack in split.manifest.backbone.stacks}
    lengths, positions, arrays = dict[str, list[int]](), dict[str, Tensor](), {}
    for stack in stacks:
        lengths[stack], integers = _positions(plan, stack, rows, format.state_axis(stacks[stack].causal))
        positions |= {f"{stack}/{kind}": torch.from_numpy(pad_integers(of, -1)) for kind, of in integers.items()}
    for name, values in activations.items():
        stack, _, kind = name.partition("/")
        to = lengths[stack]
        if kind == "cross_attention":
            arrays[name] = _pad_weights(values, to, lengths[stacks[stack].attends_to or ""], causal=False)
        elif kind == "self_attention":
            arrays[name] = _pad_weights(values, to, to, stacks[stack].causal)
        else:
            arrays[name] = _pad_states(values, to)
    label, score = plan["label"][rows].astype(np.int64), plan["score"][rows].astype(np.float32)
    return PaddedExamples(arrays, positions, lengths, rows, label, score)


def _positions(
    plan: Mapping[str, np.ndarray], stack: str, rows: np.ndarray, axis: str
) -> tuple[list[int], dict[str, list[np.ndarray]]]:
    """Return the number of entries of each example on the axis of a stack's states, and what a batch carries of each.

    The integers are by name, one of `POSITION_ARRAYS`, then by example.
    """
    names = [name for name in POSITION_ARRAYS if f"{stack}/{name}" in plan]
    integers = {name: plan_slices(plan, f"{stack}/{name}", rows) for name in names}
    if axis == "token":
        return plan[f"{stack}/length"][rows].tolist(), integers
    entries = plan_slices(plan, f"{stack}/{axis}", rows, axis)
    if axis == "readout":  # without the parents, which are not stored
        kept = {name: integers[name] for name in ("trie", "target")}
        integers = {name: [row[at] for row, at in zip(kept[name], entries, strict=True)] for name in kept}
    else:
        integers = {"segment": entries}
    return [len(entry) for entry in entries], integers


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
            padded[(..., place, *triangle(rows))] = weights
        else:
            padded[..., place, :rows, :columns] = weights.reshape(*weights.shape[:-1], rows, columns)
    return padded


def _empty(like: Values, shape: tuple[int, ...]) -> Values:
    return like.new_empty(shape) if isinstance(like, Tensor) else np.empty(shape, like.dtype)


def as_tensor(values: np.ndarray) -> Tensor:
    """Return a tensor over the same memory; uint16 holds bits that no other dtype would keep, and becomes int16."""
    return torch.from_numpy(values.view(np.int16) if values.dtype == np.uint16 else values)


def calibration_tensors(calibration: Calibration | None, device: str) -> dict[str, Tensor]:
    """Return the calibration's arrays on a device, by name; none where whole states are stored."""
    arrays = calibration.arrays() if calibration else {}
    return {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}


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
        self.calibration = calibration_tensors(calibration, device)
        self.projection = None
        if format.rank:
            deviation, scale = self.calibration["deviation"][:, :, None], self.calibration["scale"][:, None]
            expand = deviation * self.calibration["basis"].transpose(1, 2) * scale
            self.projection = Projection(self.calibration["mean"], expand)
        self.norm_weight = {name: torch.from_numpy(w).to(device) for name, w in (final_norm or {}).items()}
        for name, weight in (final_norm or {}).items():
            if raw and not np.all(np.abs(weight) > 1e-6):
                raise StoreError(
                    f"the {name}'s final norm of {spec.name} has weights that are zero, so the raw output of its last "
                    "block cannot be restored: train networks that need no raw states"
                )

    def at_all_positions(self) -> "Collator":
        """Return a collator of states at all positions, as a live backbone gives them, in the same format."""
        other = copy.copy(self)
        other.format = self.format.replaced(positions="all")
        return other

    @property
    def pooled(self) -> list[str]:
        """Names of the stacks whose states are pooled."""
        return [stack.name for stack in self.spec.stacks if self.format.state_axis(stack.causal) == "pooled"]

    @property
    def arrays(self) -> list[str]:
        """Names of the activation arrays that are read."""
        skipped = () if self.raw else ("rms", "raw_rms")
        names = [spec.name for spec in activation_arrays(self.spec, self.format)]
        names = [name for name in names if name.partition("/")[2] not in skipped]
        return [name for name in names if self.attention or not name.endswith("attention")]

    def batch(self, padded: PaddedExamples) -> Batch:
        real = {
            name: (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(self.device)
            for name, lengths in padded.lengths.items()
        }
        for name in self.pooled:  # heads and networks pool the one entry of all tokens, or those of the texts
            real[name] = (padded.positions[f"{name}/segment"] == ALL_TOKENS).to(self.device)
        stacks = {name: self.stack(name, padded.arrays, real[name], padded.positions) for name in real}
        return Batch(stacks, self.final(padded.arrays, stacks), self.targets(padded, real))

    def targets(self, padded: PaddedExamples, real: Mapping[str, Tensor]) -> Targets:
        """Return what heads compare with; `real` holds each stack's mask, [B, S] bool on the device.

        Nodes are found on the processor: a device would have to be waited for.
        """
        trie, target = (padded.positions.get(f"{self.spec.readout}/{name}") for name in ("trie", "target"))
        index = None
        if trie is not None and target is not None:
            assert self.head_tokens is not None
            if len(self.spec.stacks) == 1 and self.format.positions == "all":  # the tokens of a prompt come first
                outside = (trie < 0) & (target < 0)
                count = int((~outside).sum(1).max())
                index = torch.argsort(outside, dim=1, stable=True)[:, :count]  # in order; padded with outside positions
                trie, target = trie.gather(1, index), target.gather(1, index)
            target = torch.where(target >= 0, torch.searchsorted(self.head_tokens, target), -1)
        return Targets(
            padded.rows,
            torch.from_numpy(padded.label).to(self.device),
            torch.from_numpy(padded.score).to(self.device),
            self._on_device(trie),
            self._on_device(target),
            {
                name: Positions(mask, self._on_device(padded.positions.get(f"{name}/segment")))
                for name, mask in real.items()
            },
            self._on_device(index),
        )

    def stack(
        self, name: str, arrays: Mapping[str, Values], real_BS: Tensor, positions: Mapping[str, Tensor]
    ) -> StackBatch:
        """Return one stack of a batch; `arrays` and `positions` are those of `PaddedExamples`."""
        calibrated = self.format.calibrated and name == self.format.first
        values, rms, raw_rms = (self._on_device(arrays.get(f"{name}/{kind}")) for kind in ("hidden", "rms", "raw_rms"))
        assert values is not None
        parent, pooled = positions.get(f"{name}/parent"), name in self.pooled
        return StackBatch(
            name,
            values=self._decode(values) if calibrated else values.float() if pooled else values,
            self_attention=self._on_device(arrays.get(f"{name}/self_attention")),
            cross_attention=self._on_device(arrays.get(f"{name}/cross_attention")),
            real=real_BS,
            layers=self.format.layers[name],
            projection=self.projection if calibrated else None,
            raw=not (calibrated or pooled),
            rms=rms,
            raw_rms=None if raw_rms is None else raw_rms[0],
            norm_weight=self.norm_weight.get(name),
            parent=None if parent is None else parent.to(self.device),
        )

    def final(self, arrays: Mapping[str, Values], stacks: Mapping[str, StackBatch]) -> Tensor:
        """Return phi_N of the readout stack, [B, T, D] float32."""
        whole = self._on_device(arrays.get(f"{self.spec.readout}/final"))
        return (stacks[self.spec.readout].values[-1] if whole is None else whole[0]).float()

    def _decode(self, values: Tensor) -> Tensor:
        """Return normalised states of a calibrated stack's stored values; components stay as they are."""
        if self.format.rank:
            return values
        mean, deviation, scale = (self.calibration[name][:, None, None] for name in ("mean", "deviation", "scale"))
        return torch.addcmul(mean, values.float(), deviation * scale)

    def _on_device(self, values: Values | None) -> Tensor | None:
        """Return stored values as a tensor; the bits of bfloat16 as bfloat16."""
        if values is None:
            return None
        tensor = (values if isinstance(values, Tensor) else as_tensor(values)).to(self.device, non_blocking=True)
        return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
