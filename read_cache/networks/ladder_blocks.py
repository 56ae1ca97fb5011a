"""Transformer blocks of side networks: T5's, BERT's and Llama's. Dropout comes from the network's own generator.

Shape letters: B example, S query position, K key position, E width of the side network, H head, C channel of a head,
F frequency.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BUCKETS = 32
"""Buckets of T5's relative positions."""
FURTHEST = 128
"""Relative positions at this distance and beyond share T5's last bucket."""

Dropout = Callable[[Tensor], Tensor]
"""Inverted dropout, or the identity outside training."""


class Attention(nn.Module):
    """Multi-head attention; the products of queries and keys are multiplied by `scale`."""

    def __init__(
        self, width: int, heads: int, head_size: int, scale: float, bias: bool, key_value_heads: int = 0
    ) -> None:
        """`key_value_heads` is the number of heads of keys and values, shared evenly by the heads; 0 shares none."""
        super().__init__()
        self.head_size, self.scale, self.sharing = head_size, scale, heads // (key_value_heads or heads)
        self.q = nn.Linear(width, heads * head_size, bias)
        self.k, self.v = (nn.Linear(width, (key_value_heads or heads) * head_size, bias) for _ in range(2))
        self.o = nn.Linear(heads * head_size, width, bias)

    def forward(
        self, x_BSE: Tensor, source_BKE: Tensor, bias: Tensor, dropout: Dropout, angle_BSF: Tensor | None = None
    ) -> Tensor:
        """Return [B, S, E]. `bias`, broadcast to [B, H, S, K], is added to the scores: -inf where a key is masked.

        `angle_BSF` [B, S, F] are the `rotary_angles` of queries and keys.
        """
        q, k, v = (
            linear(states).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for linear, states in ((self.q, x_BSE), (self.k, source_BKE), (self.v, source_BKE))
        )
        if angle_BSF is not None:
            q, k = rotated(q, angle_BSF), rotated(k, angle_BSF)
        if self.sharing > 1:
            k, v = k.repeat_interleave(self.sharing, dim=1), v.repeat_interleave(self.sharing, dim=1)
        weights_BHSK = dropout(((q @ k.transpose(-1, -2)) * self.scale + bias).softmax(-1))
        return self.o((weights_BHSK.to(v.dtype) @ v).transpose(1, 2).flatten(-2))


class T5Block(nn.Module):
    """A T5 block: RMS norm before each sublayer, no biases, no scaling of the scores; cross-attention if `cross`."""

    def __init__(self, width: int, heads: int, head_size: int, feed_forward: int, gated: bool, cross: bool) -> None:
        super().__init__()
        norm, linear = partial(nn.RMSNorm, width, eps=1e-6), partial(nn.Linear, bias=False)
        attention = partial(Attention, width, heads, head_size, 1.0, bias=False)
        self.self_norm, self.self_attention = norm(), attention()
        self.cross_norm = norm() if cross else None
        self.cross_attention = attention() if cross else None
        self.feed_forward_norm = norm()
        self.wi, self.wo = linear(width, feed_forward), linear(feed_forward, width)
        self.wi_linear = linear(width, feed_forward) if gated else None
        for part in (self.self_attention, self.cross_attention):  # T5's own scales of weights
            if part is not None:
                nn.init.normal_(part.q.weight, std=(width * head_size) ** -0.5)
                nn.init.normal_(part.o.weight, std=(heads * head_size) ** -0.5)
                for keys_or_values in (part.k, part.v):
                    nn.init.normal_(keys_or_values.weight, std=width**-0.5)
        for product in (self.wi, self.wi_linear, self.wo):
            if product is not None:
                nn.init.normal_(product.weight, std=product.in_features**-0.5)

    def forward(
        self, x: Tensor, bias: Tensor, dropout: Dropout, source: Tensor | None = None, source_bias: Tensor | None = None
    ) -> Tensor:
        """Return [B, S, E]. Cross-attention reads `source`, [B, K, E], with the mask `source_bias`."""
        normed = self.self_norm(x)
        x = x + dropout(self.self_attention(normed, normed, bias, dropout))
        if self.cross_attention is not None and self.cross_norm is not None:
            assert source is not None
            assert source_bias is not None
            x = x + dropout(self.cross_attention(self.cross_norm(x), source, source_bias, dropout))
        normed = self.feed_forward_norm(x)
        if self.wi_linear is None:
            inner = F.relu(self.wi(normed))
        else:
            inner = F.gelu(self.wi(normed), approximate="tanh") * self.wi_linear(normed)
        return x + dropout(self.wo(dropout(inner)))


class BertBlock(nn.Module):
    """A BERT layer: biases everywhere, LayerNorm after each residual sum, GELU."""

    def __init__(self, width: int, heads: int, head_size: int, feed_forward: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_size, head_size**-0.5, bias=True)
        self.attention_norm, self.output_norm = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.wi, self.wo = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        for part in (*self.attention.children(), self.wi, self.wo):
            assert isinstance(part, nn.Linear)
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, bias: Tensor, dropout: Dropout) -> Tensor:
        """Return [B, S, E]."""
        x = self.attention_norm(x + dropout(self.attention(x, x, bias, dropout)))
        return self.output_norm(x + dropout(self.wo(F.gelu(self.wi(x)))))


class LlamaBlock(nn.Module):
    """A Llama layer: RMS norm before each sublayer, no biases, rotary positions, grouped-query attention, SwiGLU."""

    def __init__(self, width: int, heads: int, head_size: int, feed_forward: int, key_value_heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_size, head_size**-0.5, False, key_value_heads)
        self.attention_norm, self.feed_forward_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.gate, self.up = (nn.Linear(width, feed_forward, bias=False) for _ in range(2))
        self.down = nn.Linear(feed_forward, width, bias=False)
        for part in (*self.attention.children(), self.gate, self.up, self.down):
            assert isinstance(part, nn.Linear)
            nn.init.normal_(part.weight, std=0.02)

    def forward(self, x: Tensor, bias: Tensor, dropout: Dropout, angle: Tensor) -> Tensor:
        """Return [B, S, E]. `angle` [B, S, F] are `rotary_angles`."""
        normed = self.attention_norm(x)
        x = x + dropout(self.attention(normed, normed, bias, dropout, angle))
        normed = self.feed_forward_norm(x)
        return x + dropout(self.down(dropout(F.silu(self.gate(normed)) * self.up(normed))))


def rotary_angles(position_BS: Tensor, head_size: int, base: float) -> Tensor:
    """Return [B, S, head_size / 2] float32: position * base^(-2 f / head_size) for each frequency f."""
    channel = torch.arange(0, head_size, 2, device=position_BS.device)
    return position_BS[..., None] * base ** (-channel / head_size)


def rotated(x_BHSC: Tensor, angle_BSF: Tensor) -> Tensor:
    """Return queries or keys after rotation: channel f turns with channel f + head_size / 2."""
    first, second = x_BHSC.float().chunk(2, dim=-1)
    cos, sin = angle_BSF.cos()[:, None], angle_BSF.sin()[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_BHSC.dtype)


def mask_bias(attended: Tensor) -> Tensor:
    """Return float32 of the mask's shape: 0 where it is True, -inf where it is False."""
    return torch.zeros(attended.shape, device=attended.device).masked_fill(~attended, -math.inf)


def relative_buckets(distance: Tensor, bidirectional: bool) -> Tensor:
    """Return T5's buckets (int64) of relative positions, `distance` = position of the key - position of the query.

    Half of the buckets hold one distance each. The others hold ranges that grow with the logarithm of the distance.
    If bidirectional, the first half of all buckets is for keys before the query, the second for keys after it.
    """
    buckets = BUCKETS // 2 if bidirectional else BUCKETS
    first = (distance > 0) * buckets if bidirectional else torch.zeros_like(distance)
    apart = distance.abs() if bidirectional else -distance.clamp(max=0)
    exact = buckets // 2
    growth = torch.log(apart.clamp(min=1).float() / exact) / math.log(FURTHEST / exact)
    far = exact + (growth * (buckets - exact)).long()
    return first + torch.where(apart < exact, apart, far.clamp(max=buckets - 1))
