"""A batch of examples, read, decoded and padded once for all networks.

Shape letters: L layer, B example, S position of a stack, T position of the readout stack, D backbone width,
K component, H head, C candidate token.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from read_cache.errors import UserError
from read_cache.store.schema import DEVIATION_FLOOR, RMS_EPSILON

Layers = Mapping[str, tuple[int, ...]]
"""By stack: numbers of layers, from 1."""


@dataclasses.dataclass(frozen=True)
class Projection:
    """Turns components z into normalised states: x = mean + expand z."""

    mean: Tensor
    """[L+1, D] float32"""
    expand: Tensor
    """[L+1, D, K] float32"""

    def states(self, z_LBSK: Tensor) -> Tensor:
        """Return the states of components, [L+1, B, S, D]."""
        return torch.einsum("ldk,lbsk->lbsd", self.expand, z_LBSK) + self.mean[:, None, None]

    def of(self, states: list[int]) -> "Projection":
        """Return the projection of some states only."""
        return Projection(at(self.mean, states), at(self.expand, states))


@dataclasses.dataclass(frozen=True)
class StackBatch:
    """Cached activations of one stack, padded; padding is zero."""

    name: str
    values: Tensor
    """[L+1, B, S, D]: the embeddings and each layer's output; or their K components, as they are stored."""
    self_attention: Tensor | None
    """[L, (H,) B, S, S], [to, from], as they are stored."""
    cross_attention: Tensor | None
    """[L, (H,) B, S, S of the stack attended to], [to, from], as they are stored."""
    real: Tensor
    """[B, S] bool: True where a position is not padding."""
    layers: tuple[int, ...]
    """The backbone's numbers, from 1, of these layers."""
    projection: Projection | None = None
    """Set where `values` holds components."""
    raw: bool = False
    """`values` are the backbone's own states, float32 or bf16; otherwise they are float32 and RMS-normalised."""
    rms: Tensor | None = None
    """[L+1, B, S]: root mean square of each state, where `values` are not raw and a network needs it."""
    raw_rms: Tensor | None = None
    """[B, S]: root mean square of the last block's raw output."""
    norm_weight: Tensor | None = None
    """[D]: weight of the norm after the last block."""
    parent: Tensor | None = None
    """[B, S] int64: index of the position before this one; -1 at the root and in padding."""
    shared: dict[Hashable, Any] = dataclasses.field(default_factory=dict, compare=False)
    """Values that several networks read, each made once: inputs (`networks/inputs.py`) and attention weights."""

    def of(self, layers: tuple[int, ...]) -> "StackBatch":
        """Return this batch with some of its layers only."""
        if layers == self.layers:
            return self
        places = [self.layers.index(layer) for layer in layers]
        states = [0, *(place + 1 for place in places)]
        return dataclasses.replace(
            self,
            values=at(self.values, states),
            self_attention=None if self.self_attention is None else at(self.self_attention, places),
            cross_attention=None if self.cross_attention is None else at(self.cross_attention, places),
            layers=layers,
            projection=self.projection and self.projection.of(states),
            rms=None if self.rms is None else at(self.rms, states),
            shared={},
        )

    def whole_state(self, index: int) -> Tensor:
        """Return one RMS-normalised state, [B, S, D] float32, made of components where those are stored."""
        values = self.values[index : index + 1]
        if self.projection is not None:
            return self.projection.of([index]).states(values.float())[0]
        return rms_norm(values[0].float()) if self.raw else values[0]

    def whole_states(self) -> Tensor:
        """Return all RMS-normalised states, [L+1, B, S, D] float32."""
        return torch.stack([self.whole_state(index) for index in range(len(self.values))])

    def attention(self, kind: str, dtype: torch.dtype) -> Tensor:
        """Return self_attention or cross_attention in a floating-point dtype, made once for all networks."""
        if (kind, dtype) not in self.shared:
            stored: Tensor = getattr(self, kind)
            weights = stored.to(dtype)
            if stored.dtype == torch.uint8:  # 255 times the root: see `store/schema.py`
                torch.addcmul(weights.new_zeros(()), weights, weights, value=1 / 255**2, out=weights)
            self.shared[kind, dtype] = weights
        found: Tensor = self.shared[kind, dtype]
        return found

    def raw_state(self, index: int) -> Tensor:
        """Return a block's raw output, [B, S, D] float32; that of the last block before the final norm.

        `index` counts this batch's states, 0 being the embeddings.
        """
        if self.raw:
            phi = self.values[index].float()
        else:
            assert self.rms is not None
            phi = self.whole_state(index) * self.rms[index][..., None]
        if index == len(self.values) - 1 and self.norm_weight is not None:
            assert self.raw_rms is not None
            phi = phi / self.norm_weight * self.raw_rms[..., None]
        return phi


@dataclasses.dataclass(frozen=True)
class Positions:
    """The mask of a stack's positions, and their texts."""

    real: Tensor
    """[B, S] bool: True where a position is not padding."""
    segment: Tensor | None = None
    """[B, S] int64: number of the text a token belongs to; -1 for special tokens and padding."""

    def weights(self, pooling: str) -> Tensor:
        """Return each position's share of pooled vectors, [B, P, S] float32; P is 2 for texts apart, otherwise 1.

        `pooling` is mean (of all positions), first (position) or apart (the mean of each text of a pair). Raises
        UserError if nothing tells the texts apart.
        """
        if pooling == "apart":
            if self.segment is None:
                raise UserError("texts are pooled apart, and token ids do not tell them apart: use classify")
            mask_BPS = torch.stack([self.segment == 0, self.segment == 1], dim=1)
        elif pooling == "first":
            mask_BPS = (torch.arange(self.real.shape[1], device=self.real.device) == 0).expand_as(self.real)[:, None]
        else:
            mask_BPS = self.real[:, None]
        return mask_BPS / mask_BPS.sum(-1, keepdim=True).clamp(min=1)


def join_texts(pooled: Tensor) -> Tensor:
    """Return [a, b, |a - b|, a * b], [..., 1, 4 D], of two texts' vectors, [..., 2, D]; [..., 1, D] stays as it is."""
    if pooled.shape[-2] == 1:
        return pooled
    a, b = pooled.chunk(2, dim=-2)
    return torch.cat([a, b, (a - b).abs(), a * b], dim=-1)


@dataclasses.dataclass(frozen=True)
class Targets:
    """Labels and gold values that a head compares a network's output with."""

    rows: np.ndarray
    """[B] int64: the examples' numbers in the split."""
    label: Tensor
    """[B] int64: label id; -1 for open targets."""
    score: Tensor
    """[B] float32: gold value for the metric."""
    node_trie: Tensor | None
    """[B, T] int64: node of the label trie; -1 for open targets and padding. None without an LM head."""
    node_target: Tensor | None
    """[B, T] int64: row of the gold token in the LM head; -1 off the gold path and in padding."""
    positions: dict[str, Positions]
    """By stack."""
    readout: Tensor | None = None
    """[B, T] int64: positions of the readout stack that the nodes are at; None where they are all of its positions."""

    def __len__(self) -> int:
        return len(self.rows)

    def at_readout(self, y_BSD: Tensor) -> Tensor:
        """Return [B, T, D]: the states at the readout positions, of states at every position of the readout stack."""
        if self.readout is None:
            return y_BSD
        return y_BSD.gather(1, self.readout[..., None].expand(-1, -1, y_BSD.shape[-1]))

    @property
    def device(self) -> torch.device:
        return self.label.device


@dataclasses.dataclass(frozen=True)
class Batch:
    """A padded batch."""

    stacks: dict[str, StackBatch]
    """By name, in the backbone's order."""
    final: Tensor
    """[B, T, D] float32: phi_N, the readout stack's last hidden state, as it was stored."""
    targets: Targets
    subsets: dict[Hashable, "Batch"] = dataclasses.field(default_factory=dict, compare=False)
    """Batches that `of` has made."""

    def __len__(self) -> int:
        return len(self.targets)

    def of(self, layers: Layers) -> "Batch":
        """Return this batch with some of its layers only; networks that ask for the same layers share it."""
        if all(layers[name] == stack.layers for name, stack in self.stacks.items() if name in layers):
            return self
        key = tuple(sorted(layers.items()))
        if key not in self.subsets:
            stacks = {name: stack.of(layers.get(name, stack.layers)) for name, stack in self.stacks.items()}
            self.subsets[key] = dataclasses.replace(self, stacks=stacks, subsets={})
        return self.subsets[key]


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and deviation of a stack's RMS-normalised states over training rows, each [L+1, D] float32."""

    mean: Tensor
    deviation: Tensor
    layers: tuple[int, ...]
    """The backbone's numbers, from 1, of these layers."""

    @cached_property
    def scale(self) -> Tensor:
        """[L+1, D]: factor that makes the deviation one, where it is more than noise."""
        return 1 / (self.deviation**2 + DEVIATION_FLOOR**2).sqrt()

    def of(self, layers: tuple[int, ...]) -> "Statistics":
        """Return the statistics of some layers only."""
        if layers == self.layers:
            return self
        states = [0, *(self.layers.index(layer) + 1 for layer in layers)]
        return Statistics(at(self.mean, states), at(self.deviation, states), layers)


def rms_norm(phi: Tensor) -> Tensor:
    """Return phi / sqrt(mean(phi²)) over the last axis, without parameters; zero stays zero. T5's states reach 1e5."""
    return torch.nn.functional.rms_norm(phi, phi.shape[-1:], eps=RMS_EPSILON)


def at(values: Tensor, places: Sequence[int]) -> Tensor:
    """Return the values at some places of the first axis. An index would be copied to the device, and waited for."""
    chosen = values.new_empty(len(places), *values.shape[1:])  # torch.stack would change the dtype under autocast
    for one, place in zip(chosen, places, strict=True):
        one.copy_(values[place])
    return chosen
