"""What a network sees of a batch of examples. Read, decoded, padded and normalised once, shared by every network.

Shape letters: L layer, B example, S encoder token, T decoder node, D backbone width, H head, C candidate token.
"""

import dataclasses

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
    rows: Tensor
    """[B] int64: each example's place in the store."""


def rms_norm(phi: Tensor) -> Tensor:
    """phi / sqrt(mean(phi²)) over the last axis, without parameters; zero stays zero. T5's residuals reach 1e5."""
    return torch.nn.functional.rms_norm(phi, phi.shape[-1:], eps=1e-6)
