"""Reversible blocks: backward computes a block's input from its output. One pair of states is kept for each segment.

Each block divides by lambda or beta, and loses a digit if they are 0.1. The pair is therefore float64, and F and G take
it rounded: in backward it rounds to the same numbers, so F and G return the same bits, in any precision.

Shape letters: B example, S position, D width.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from read_cache.methods.base import drawing_from

Pair = tuple[Tensor, Tensor]
"""Two states, [B, S, D] float64 each."""
Function = Callable[[Tensor, Tensor], Tensor]
"""Function of a state and of the encoder's output, for cross-attention. Each call draws the same dropout."""


@dataclasses.dataclass(frozen=True)
class ReversibleBlock:
    """y1 = lambda x1 + F(x2); y2 = beta x2 + G(y1). The next block takes (y2, y1) if `swap`, otherwise (y1, y2)."""

    F: Function
    G: Function
    lambd: float
    beta: float
    swap: bool
    dtype: torch.dtype
    """Dtype of the states that F and G take."""

    def forward(self, x1: Tensor, x2: Tensor, encoded: Tensor) -> Pair:
        """Return the next block's pair."""
        y1 = self.lambd * x1 + self.F(x2.to(self.dtype), encoded)
        y2 = self.beta * x2 + self.G(y1.to(self.dtype), encoded)
        return (y2, y1) if self.swap else (y1, y2)

    def backward(self, pair: Pair, gradients: Pair, others: Sequence[Tensor]) -> tuple[Pair, Pair, list[Tensor]]:
        """Return this block's pair, its gradients, and those of `others`, from the next block's pair and gradients.

        `others` are the encoder's output and the trained weights.
        """
        (y1, y2), (d1, d2) = (values[::-1] if self.swap else values for values in (pair, gradients))
        g, through_g, of_g = differentiate(self.G, y1.to(self.dtype), others, d2)
        x2, d1 = (y2 - g) / self.beta, d1 + through_g
        f, through_f, of_f = differentiate(self.F, x2.to(self.dtype), others, d1)
        x1, d2 = (y1 - f) / self.lambd, self.beta * d2 + through_f
        return (x1, x2), (self.lambd * d1, d2), [a + b for a, b in zip(of_g, of_f, strict=True)]


class Reversible(torch.autograd.Function):
    """A segment of reversible blocks. It keeps its last pair and the encoder's output, whatever its depth."""

    @staticmethod
    def forward(
        ctx: Any, blocks: Sequence[ReversibleBlock], x1: Tensor, x2: Tensor, encoded: Tensor, *weights: Tensor
    ) -> Pair:
        """Return the pair after the last block. `weights` are all trained weights of the blocks."""
        for block in blocks:
            x1, x2 = block.forward(x1, x2, encoded)
        kind = x1.device.type
        ctx.blocks, ctx.weights = blocks, weights
        ctx.autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), False)
        ctx.save_for_backward(x1, x2, encoded)
        return x1, x2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the first pair, of the encoder's output and of the weights."""
        x1, x2, encoded = ctx.saved_tensors
        pair, others = (x1, x2), (encoded.detach().requires_grad_(), *ctx.weights)
        sums = [torch.zeros_like(tensor) for tensor in others]
        with ctx.autocast:
            for block in reversed(ctx.blocks):
                pair, gradients, added = block.backward(pair, gradients, others)
                sums = [a + b for a, b in zip(sums, added, strict=True)]
        return None, *gradients, *sums


def differentiate(
    function: Function, x: Tensor, others: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return a function's value at x, and the gradients of x and of `others` from that of the value."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x, others[0])
    through, *rest = torch.autograd.grad(value, (x, *others), gradient.to(value.dtype), materialize_grads=True)
    return value.detach(), through, rest


def repeatable(function: Function, draws: bool) -> Function:
    """Return a function that draws the same dropout in each call, from a seed drawn now from the global state.

    If `draws` is False, the function itself is returned.
    """
    if not draws:
        return function
    seed = int(torch.randint(2**62, ()))

    def repeated(x: Tensor, encoded: Tensor) -> Tensor:
        with drawing_from(torch.Generator(x.device).manual_seed(seed)):
            return function(x, encoded)

    return repeated
