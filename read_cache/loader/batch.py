"""What a network sees of a batch of examples. Read, decoded, padded and normalised once, shared by every network.

Shape letters: L layer, B example, S encoder token, T decoder node, D backbone width, K component, H head, C candidate
token.
"""

import dataclasses
from collections.abc import Hashable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from read_cache.store.quantization import DEVIATION_FLOOR, RMS_EPSILON


@dataclasses.dataclass(frozen=True)
class Projection:
    """How components z make normalised states: x = mean + expand z."""

    mean: Tensor
    """[L+1, D] float32"""
    expand: Tensor
    """[L+1, D, K] float32"""

    def states(self, z_LBSK: Tensor) -> Tensor:
        """[L+1, B, S or T, D]: the states that components stand for."""
        return torch.einsum("ldk,lbsk->lbsd", self.expand, z_LBSK) + self.mean[:, None, None]


@dataclasses.dataclass(frozen=True)
class StackBatch:
    """One stack's cached activations, padded; padding is zero."""

    values: Tensor
    """[L+1, B, S or T, D]: the embeddings and each layer's output; or their K components."""
    attention: Tensor | None
    """[L, (H,) B, S, S] or [L, (H,) B, T, T]: self-attention weights, [to, from]."""
    real: Tensor
    """[B, S or T] bool: what is no padding."""
    layers: tuple[int, ...]
    """The backbone's numbers, from 1, of these layers."""
    projection: Projection | None = None
    """Where `values` holds components."""
    raw: bool = False
    """Whether `values` are states as the backbone gave them, in float32 or bf16; else float32, RMS-normalised."""
    shared: dict[Hashable, Any] = dataclasses.field(default_factory=dict, compare=False)
    """What networks have made of these states, for others that want the same: see `phi.standardised`."""

    def of(self, layers: tuple[int, ...]) -> "StackBatch":
        """This batch with some of its layers only."""
        if layers == self.layers:
            return self
        states = [0, *(self.layers.index(layer) + 1 for layer in layers)]
        projection = self.projection
        return dataclasses.replace(
            self,
            values=self.values[states],
            attention=at_layers(self.attention, self.layers, layers),
            layers=layers,
            projection=projection and Projection(projection.mean[states], projection.expand[states]),
            shared={},
        )

    def whole_states(self) -> Tensor:
        """[L+1, B, S or T, D]: the RMS-normalised states, made of components where those are stored."""
        if self.projection is not None:
            return self.projection.states(self.values)
        return rms_norm(self.values.float()) if self.raw else self.values

    def whole_layers(self) -> Iterator[Tensor]:
        """The same, [B, S or T, D] each: no more than one layer's are made at once."""
        for index in range(len(self.values)):
            projection, of_layer = self.projection, slice(index, index + 1)
            if projection is not None:
                projection = Projection(projection.mean[of_layer], projection.expand[of_layer])
            yield dataclasses.replace(self, values=self.values[of_layer], projection=projection).whole_states()[0]


def at_layers(weights: Tensor | None, known: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor | None:
    """Attention weights of the layers `known`, [L, …], at some of them."""
    return None if weights is None else weights[[known.index(layer) for layer in wanted]]


@dataclasses.dataclass(frozen=True)
class Batch:
    """A padded batch."""

    encoder: StackBatch
    decoder: StackBatch
    cross_attention: Tensor | None
    """[L, (H,) B, T, S]: the decoder's attention to the encoder, at the decoder's layers."""
    final: Tensor
    """[B, T, D]: phi_N, the decoder's final-normed state, as it was stored."""
    node_trie: Tensor
    """[B, T] int64: the label trie's node; -1 for open targets and padding."""
    node_target: Tensor
    """[B, T] int64: place of the gold token among the head's rows; -1 off the gold path and in padding."""
    subsets: dict[Hashable, "Batch"] = dataclasses.field(default_factory=dict, compare=False)
    """What `of` has given."""

    def of(self, encoder_layers: tuple[int, ...], decoder_layers: tuple[int, ...]) -> "Batch":
        """This batch with some of its layers only; the same to every network that asks for them."""
        layers = (encoder_layers, decoder_layers)
        if layers == (self.encoder.layers, self.decoder.layers):
            return self
        if layers not in self.subsets:
            cross = at_layers(self.cross_attention, self.decoder.layers, decoder_layers)
            encoder, decoder = self.encoder.of(encoder_layers), self.decoder.of(decoder_layers)
            subset = dataclasses.replace(self, encoder=encoder, decoder=decoder, cross_attention=cross, subsets={})
            self.subsets[layers] = subset
        return self.subsets[layers]


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """A stack's RMS-normalised states over training rows, each [L+1, D] float32."""

    mean: Tensor
    deviation: Tensor
    layers: tuple[int, ...]
    """The backbone's numbers, from 1, of these layers."""

    @cached_property
    def scale(self) -> Tensor:
        """[L+1, D]: what makes the deviation one, where it is more than noise."""
        return 1 / (self.deviation**2 + DEVIATION_FLOOR**2).sqrt()

    def of(self, layers: tuple[int, ...]) -> "Statistics":
        """Those of some layers only."""
        if layers == self.layers:
            return self
        states = [0, *(self.layers.index(layer) + 1 for layer in layers)]
        return Statistics(self.mean[states], self.deviation[states], layers)


def rms_norm(phi: Tensor) -> Tensor:
    """phi / sqrt(mean(phi²)) over the last axis, without parameters; zero stays zero. T5's residuals reach 1e5."""
    return torch.nn.functional.rms_norm(phi, phi.shape[-1:], eps=RMS_EPSILON)
