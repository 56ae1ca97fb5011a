"""From the examples of a store, or of a live backbone in the same form, to a `Batch`.

`pad` copies each example's slice of each array into a padded array, in the stored dtype, on whatever device the parts
lie: the reader thread's work. `Collator.batch` makes tensors of it; networks normalise what they use: see `phi.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from read_cache.loader.batch import Batch, Projection, StackBatch
from read_cache.store.quantization import Calibration
from read_cache.store.schema import Form

NETWORK_ARRAYS = (
    "encoder/hidden",
    "decoder/hidden",
    "encoder/attention",
    "decoder/self_attention",
    "decoder/cross_attention",
)
"""What networks see of a store; `encoder/rms` is for readers who want the states themselves."""
Values = Any
"""A numpy array, or a tensor on a device: `pad` slices and assigns, which is the same for both."""


@dataclasses.dataclass(frozen=True)
class ExampleArrays:
    """One example's slice of every array of a store, or what the live backbone gave for it in the same form."""

    activations: Mapping[str, Values]
    """By array name: [state or layer, (head,) places, (width)]; bf16 states as uint16 bits."""
    node_trie: np.ndarray
    """[nodes] int32."""
    node_target: np.ndarray
    """[nodes] int32: the gold token, -1 off the gold path."""


@dataclasses.dataclass(frozen=True)
class PaddedExamples:
    """Examples side by side, in the dtypes of the store."""

    arrays: dict[str, Values]
    """By array name: [state or layer, (H,) B, S or T, (D or S or T)]; padding is zero."""
    tokens: list[int]
    nodes: list[int]
    node_trie: Tensor
    """[B, T] int64, -1 in padding."""
    node_target: Tensor
    """[B, T] int64: the gold token, -1 off the gold path and in padding."""


def pad(examples: Sequence[ExampleArrays]) -> PaddedExamples:
    """Pad examples to the longest of them."""
    tokens = [example.activations["encoder/hidden"].shape[1] for example in examples]
    nodes = [len(example.node_target) for example in examples]
    places = {
        "encoder/attention": (tokens, tokens),
        "decoder/self_attention": (nodes, nodes),
        "decoder/cross_attention": (nodes, tokens),
    }
    arrays = {}
    for name in NETWORK_ARRAYS:
        if name not in examples[0].activations:
            continue
        values = [example.activations[name] for example in examples]
        if name in places:
            arrays[name] = _pad_weights(values, *places[name])
        else:
            arrays[name] = _pad_hidden(values, tokens if name.startswith("encoder/") else nodes)
    return PaddedExamples(
        arrays,
        tokens,
        nodes,
        _pad_nodes([example.node_trie for example in examples]),
        _pad_nodes([example.node_target for example in examples]),
    )


def _pad_hidden(values: list[Values], counts: list[int]) -> Values:
    """[states, B, S or T, D]."""
    longest = max(counts)
    padded = _empty(values[0], (len(values[0]), len(values), longest, values[0].shape[-1]))
    for place, (state, count) in enumerate(zip(values, counts, strict=True)):
        padded[:, place, :count] = state
        if count < longest:
            padded[:, place, count:] = 0
    return padded


def _pad_weights(values: list[Values], to: list[int], source: list[int]) -> Values:
    """[L, (H,) B, to, from]."""
    padded = _empty(values[0], (*values[0].shape[:-1], len(values), max(to), max(source)))
    padded[...] = 0
    for place, (weights, rows, columns) in enumerate(zip(values, to, source, strict=True)):
        padded[..., place, :rows, :columns] = weights.reshape(*weights.shape[:-1], rows, columns)
    return padded


def _empty(like: Values, shape: tuple[int, ...]) -> Values:
    return like.new_empty(shape) if isinstance(like, Tensor) else np.empty(shape, like.dtype)


def _pad_nodes(values: list[np.ndarray]) -> Tensor:
    """[B, T] int64, padded with -1."""
    padded = np.full((len(values), max(map(len, values))), -1, np.int64)
    for row, nodes in zip(padded, values, strict=True):
        row[: len(nodes)] = nodes
    return torch.from_numpy(padded)


def as_tensor(values: np.ndarray) -> Tensor:
    """A tensor over the same memory; uint16 holds bits that no other dtype would keep, and becomes int16."""
    return torch.from_numpy(values.view(np.int16) if values.dtype == np.uint16 else values)


class Collator:
    """Makes batches of padded examples of one store, or of a live backbone that stands for it.

    `head_tokens` [C] int64, sorted, are the head's rows. `form` says what the arrays hold; its layers are those read.
    """

    def __init__(
        self, head_tokens: np.ndarray, form: Form, calibration: Calibration | None = None, device: str = "cpu"
    ) -> None:
        self.form, self.device = form, device
        self.head_tokens = torch.from_numpy(head_tokens)
        self.calibration = {
            name: torch.from_numpy(values).to(device)
            for name, values in (calibration.arrays() if calibration else {}).items()
        }
        self.projection = self._projection() if form.rank else None

    def batch(self, padded: PaddedExamples) -> Batch:
        """A float32 batch on the device."""
        target = padded.node_target
        places = torch.where(target >= 0, torch.searchsorted(self.head_tokens, target), -1)
        decoder = self.decoder_stack(padded.arrays, self._real(padded.nodes))
        return Batch(
            encoder=self.encoder_stack(padded.arrays, self._real(padded.tokens)),
            decoder=decoder,
            cross_attention=self.cross_attention(padded.arrays),
            final=decoder.values[-1].float(),
            node_trie=padded.node_trie.to(self.device),
            node_target=places.to(self.device),
        )

    def encoder_stack(self, arrays: Mapping[str, Values], real_BS: Tensor) -> StackBatch:
        """What networks see of the encoder; `real_BS` says what is no padding."""
        values, weights = self._encoder_values(arrays["encoder/hidden"]), self._weights(arrays.get("encoder/attention"))
        layers, raw = self.form.encoder_layers, not self.form.calibrated
        return StackBatch(values, weights, real_BS, layers, self.projection, raw)

    def decoder_stack(self, arrays: Mapping[str, Values], real_BT: Tensor) -> StackBatch:
        """What networks see of the decoder; `real_BT` says what is no padding."""
        values = self._on_device(arrays["decoder/hidden"])
        weights = self._weights(arrays.get("decoder/self_attention"))
        return StackBatch(values, weights, real_BT, self.form.decoder_layers, raw=True)

    def cross_attention(self, arrays: Mapping[str, Values]) -> Tensor | None:
        """[L, (H,) B, T, S] float32; None where the store holds none."""
        return self._weights(arrays.get("decoder/cross_attention"))

    def _encoder_values(self, stored: Values) -> Tensor:
        """States as they were stored; of a calibrated form, normalised states or their components."""
        values = self._on_device(stored)
        if not self.form.calibrated:
            return values
        scale = self.calibration["scale"][:, None, None]
        if self.form.rank:
            return values.float().mul_(scale)
        mean, deviation = (self.calibration[name][:, None, None] for name in ("mean", "deviation"))
        return torch.addcmul(mean, values.float(), deviation * scale)

    def _projection(self) -> Projection:
        """expand = diag(deviation) basisᵀ."""
        expand = self.calibration["deviation"][:, :, None] * self.calibration["basis"].transpose(1, 2)
        return Projection(self.calibration["mean"], expand)

    def _weights(self, values: Values | None) -> Tensor | None:
        """Attention weights, float32; None where the store holds none. See `store/schema.py` for uint8."""
        if values is None:
            return None
        weights = self._on_device(values)
        return (weights.float() / 255).square_() if weights.dtype == torch.uint8 else weights.float()

    def _on_device(self, values: Values) -> Tensor:
        """The stored values; the bits of bfloat16 as bfloat16."""
        tensor = (values if isinstance(values, Tensor) else as_tensor(values)).to(self.device)
        return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor

    def _real(self, counts: list[int]) -> Tensor:
        return (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).to(self.device)
