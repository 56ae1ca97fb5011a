"""Reversible segments against finite differences, on functions that share nothing with a backbone."""

import pytest
import torch
from torch import Tensor

from read_cache.methods.reversible import Function, Reversible, ReversibleBlock, repeatable


def functions(weights: list[Tensor]) -> list[Function]:
    """One function for each pair of weights, [4, 4]."""

    def make(own: Tensor, cross: Tensor) -> Function:
        return lambda x, encoded: torch.tanh(x @ own + encoded.mean(1, keepdim=True) @ cross)

    return [make(own, cross) for own, cross in zip(weights[::2], weights[1::2], strict=True)]


@pytest.mark.parametrize("swap", [True, False])
def test_gradients_of_states_encoder_and_weights_are_those_of_finite_differences(swap) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 4)] * 2 + [(2, 5, 4)] + [(4, 4)] * 8
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    f1, g1, f2, g2 = functions(inputs[3:])
    blocks = [ReversibleBlock(f, g, 0.1, 0.5, swap, torch.float64) for f, g in ((f1, g1), (f2, g2))]
    assert torch.autograd.gradcheck(lambda *given: Reversible.apply(blocks, *given), inputs)


def test_a_repeatable_function_draws_the_same_and_leaves_the_global_state() -> None:
    torch.manual_seed(0)
    first, second = (repeatable(lambda x, _: torch.rand_like(x), True) for _ in range(2))
    state, x = torch.get_rng_state(), torch.zeros(3)
    assert torch.equal(first(x, x), first(x, x))
    assert not torch.equal(first(x, x), second(x, x))
    assert torch.equal(state, torch.get_rng_state())
