"""What a network sees of a batch of examples. Read, decoded, padded and normalised once, shared by every network.

Shape letters: L layer, B example, S encoder token, T decoder node, D backbone width, H head, C candidate token.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class StackBatch:
    """One stack's cached activations, padded; padding is zero."""

    normed: Tensor
    """[L+1, B, S or T, D]: the embeddings and each layer's output, RMS-normalised."""
    attention: Tensor | None
    """[L, (H,) B, S, S] or [L, (H,) B, T, T]: self-attention weights, [to, from]."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """A padded batch."""

    encoder: StackBatch
    decoder: StackBatch
    cross_attention: Tensor | None
    """[L, (H,) B, T, S]: the decoder's attention to the encoder."""
    final: Tensor
    """[B, T, D]: phi_N, the decoder's final-normed state, as it was stored."""
    node_trie: Tensor
    """[B, T] int64: the label trie's node; -1 for open targets and padding."""
    node_target: Tensor
    """[B, T] int64: place of the gold token among the head's rows; -1 off the gold path and in padding."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A stack's RMS-normalised states over training rows, each [L+1, D] float32."""

    mean: Tensor
    deviation: Tensor


def rms_norm(phi: Tensor) -> Tensor:
    """phi / sqrt(mean(phi²)) over the last axis, without parameters; zero stays zero. T5's residuals reach 1e5."""
    return torch.nn.functional.rms_norm(phi, phi.shape[-1:], eps=1e-6)


@dataclasses.dataclass(frozen=True)
class ExampleArrays:
    """One example's slice of every array of a store, or what the live backbone gave for it in the same form."""

    activations: Mapping[str, np.ndarray]
    """By array name: [state or layer, (head,) places, (width)]; bf16 states as uint16 bits."""
    node_trie: np.ndarray
    """[nodes] int32."""
    node_target: np.ndarray
    """[nodes] int32: the gold token, -1 off the gold path."""


def make_batch(examples: Sequence[ExampleArrays], head_tokens: Tensor, device: str = "cpu") -> Batch:
    """Pad examples into one batch of float32 tensors. `head_tokens`: [C] int64, sorted, the head's rows."""
    decoder = _pad_hidden("decoder/hidden", examples, device)
    encoder = _pad_hidden("encoder/hidden", examples, device)
    tokens, nodes = ([e.activations[name].shape[1] for e in examples] for name in ("encoder/hidden", "decoder/hidden"))
    target = _pad_nodes([example.node_target for example in examples])
    places = torch.where(target >= 0, torch.searchsorted(head_tokens, target), -1)
    return Batch(
        encoder=StackBatch(rms_norm(encoder), _pad_weights("encoder/attention", examples, tokens, tokens, device)),
        decoder=StackBatch(rms_norm(decoder), _pad_weights("decoder/self_attention", examples, nodes, nodes, device)),
        cross_attention=_pad_weights("decoder/cross_attention", examples, nodes, tokens, device),
        final=decoder[-1],
        node_trie=_pad_nodes([example.node_trie for example in examples]).to(device),
        node_target=places.to(device),
    )


def _pad_hidden(name: str, examples: Sequence[ExampleArrays], device: str) -> Tensor:
    """[L+1, B, S or T, D] float32, from float32 or the bits of bfloat16."""
    arrays = [example.activations[name] for example in examples]
    states, _, width = arrays[0].shape
    is_bf16 = arrays[0].dtype == np.uint16
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    padded = torch.zeros(states, len(arrays), max(values.shape[1] for values in arrays), width, dtype=dtype)
    for place, values in enumerate(arrays):
        tensor = torch.from_numpy(values.view(np.int16) if is_bf16 else values).view(dtype)
        padded[:, place, : tensor.shape[1]] = tensor
    return padded.to(device).float()


def _pad_weights(
    name: str, examples: Sequence[ExampleArrays], to: list[int], source: list[int], device: str
) -> Tensor | None:
    """[L, (H,) B, to, from] float32; None where the store holds no attention weights."""
    first = examples[0].activations.get(name)
    if first is None:
        return None
    dtype = torch.float16 if first.dtype == np.float16 else torch.float32
    padded = torch.zeros(*first.shape[:-1], len(examples), max(to), max(source), dtype=dtype)
    for place, (example, rows, columns) in enumerate(zip(examples, to, source, strict=True)):
        values = torch.from_numpy(example.activations[name])
        padded[..., place, :rows, :columns] = values.unflatten(-1, (rows, columns))
    return padded.to(device).float()


def _pad_nodes(values: list[np.ndarray]) -> Tensor:
    """[B, T] int64, padded with -1."""
    tensors = [torch.from_numpy(value.astype(np.int64)) for value in values]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=-1)
