"""The ladder: its counts, its gates, what it reads of a batch, and what backward keeps."""

import dataclasses

import pytest
import torch
from torch import Tensor

from read_cache.errors import UserError
from read_cache.loader.batch import Batch
from read_cache.networks.base import Needs, build_network
from read_cache.networks.ladder import Ladder, LadderConfig
from read_cache.store.spec import BlockSpec
from support.ladders import SMALL, bert_batch, bert_shape, llama_batch, llama_shape, scrambled, t5_batch, t5_shape

PUBLISHED = (2, 3, 4, 6, 7, 8, 10, 11, 12)
"""The layers with a side block at T5-base, counted from 1."""


@pytest.mark.parametrize(
    ("width", "heads", "depth", "layers", "sizes", "expected"),
    [
        (768, 12, 12, PUBLISHED, {}, 3_878_712),
        (768, 12, 12, tuple(range(1, 13)), {}, 5_097_240),
        (512, 8, 6, tuple(range(1, 7)), {}, 1_183_628),
        (1024, 16, 24, tuple(range(2, 25, 2)), {}, 9_057_328),
        (1024, 32, 24, (24,), {"feed_forward": 16384, "head_size": 128}, 2_494_896),
    ],
)
def test_the_published_counts_of_parameters(width, heads, depth, layers, sizes, expected) -> None:
    assert layers[-1] == depth
    with torch.device("meta"):
        network = Ladder(LadderConfig(), t5_shape(layers, width, heads, BlockSpec(**sizes)))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_it_needs() -> None:
    assert Ladder.needs(LadderConfig()) == Needs(attention="none", raw=True)


def test_first_weights() -> None:
    network = build_network("ladder", LadderConfig(), t5_shape(PUBLISHED, 768, 12), seed=1)
    assert isinstance(network, Ladder)
    for linear in (network.up, *network.sides["encoder"].down, *network.sides["decoder"].down):
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not linear.bias.any()
    again = build_network("ladder", LadderConfig(), t5_shape(PUBLISHED, 768, 12), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert not network.sides["encoder"].gates.any()


@pytest.mark.parametrize(("logit", "without"), [(50.0, 2), (-50.0, 0)])
@torch.no_grad()
def test_a_closed_gate_hides_a_state(logit, without) -> None:
    """A gate of 1 at layer 2 hides phi_2; gates of 0 at layer 1 hide phi_0."""
    network, batch = scrambled(SMALL, bert_shape((1, 2))), bert_batch(2)
    network.sides["encoder"].gates[1 if without else 0] = logit
    y = network(batch)
    batch.stacks["encoder"].values[without] += 1.0
    torch.testing.assert_close(network(batch), y)
    batch.stacks["encoder"].values[1] += 1.0
    assert not torch.allclose(network(batch), y)


def test_dropped_layers_are_not_read_and_their_gates_get_no_gradient() -> None:
    network, batch = scrambled(SMALL, t5_shape((2, 3))), t5_batch(3)
    for stack in batch.stacks.values():
        stack.values[1] = float("nan")
    network(batch).square().sum().backward()
    for side in network.sides.values():
        assert side.gates.grad[0] == 0
        assert (side.gates.grad[1:] != 0).all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def saved_bytes(network: Ladder, batch: Batch) -> int:
    """Bytes that backward keeps, each storage once; nothing kept may have a graph that leads out of the network."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(batch).sum()
    total = sum(size for storage, size in kept.items() if storage not in own)
    loss.backward()
    return total


def test_backward_keeps_nothing_of_the_layers_without_a_side_block() -> None:
    """Nothing is kept but the side network's tensors and the states it reads, however deep the backbone is."""
    config, sizes = SMALL.replaced(dropout=0.0), []
    for depth in (4, 8, 12):
        batch = t5_batch(depth)
        # The states as a network's batch holds them: each kept layer a tensor of its own.
        kept = (depth - 1, depth)
        stacks = {name: stack.of(kept) for name, stack in batch.stacks.items()}
        network = scrambled(config, t5_shape(kept))
        sizes.append(saved_bytes(network, dataclasses.replace(batch, stacks=stacks)))
        assert not any(stack.values.requires_grad or stack.values.grad_fn for stack in batch.stacks.values())
    assert sizes[0] == sizes[1] == sizes[2]
    deeper = scrambled(config, t5_shape((10, 11, 12)))
    assert saved_bytes(deeper, t5_batch(12)) > sizes[0]


@torch.no_grad()
def test_the_last_state_is_read_without_the_final_norm() -> None:
    """A store holds the last state after the norm; the ladder reads what it was before."""
    network, batch = scrambled(SMALL, t5_shape((1, 2))), t5_batch(2)
    stacks = {}
    for name, stack in batch.stacks.items():
        weight, rms = torch.rand(32) + 0.5, stack.values[-1].square().mean(-1).add(1e-6).sqrt()
        values = torch.cat([stack.values[:-1], (stack.values[-1] / rms[..., None] * weight)[None]])
        stacks[name] = dataclasses.replace(stack, values=values, norm_weight=weight, raw_rms=rms)
    stored = dataclasses.replace(batch, stacks=stacks)
    torch.testing.assert_close(network(stored), network(batch), atol=1e-5, rtol=1e-4)


def test_dropout_is_drawn_from_the_networks_own_generator() -> None:
    network, batch = scrambled(SMALL.replaced(dropout=0.5), t5_shape((1, 2, 3))), t5_batch(3)
    state = torch.get_rng_state()
    first, again, other = (network(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, network(batch))
    assert torch.equal(network(batch), network(batch))


@pytest.mark.parametrize(
    ("make_shape", "make_batch"), [(t5_shape, t5_batch), (bert_shape, bert_batch), (llama_shape, llama_batch)]
)
def test_bf16_products(make_shape, make_batch) -> None:
    shape, batch = make_shape((1, 3)), make_batch(3)
    network = scrambled(SMALL, shape)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(batch)
    torch.testing.assert_close(y.float(), network(batch), atol=0.3, rtol=0.1)
    y.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_networks_of_one_shape_step_as_one() -> None:
    """As training/ stacks them: one functional call under vmap."""
    networks, batch = [scrambled(SMALL, t5_shape((1, 3))) for _ in range(2)], t5_batch(3)
    networks[1].up.weight.data.mul_(2)
    weights = {
        name: torch.stack([dict(network.named_parameters())[name].data for network in networks])
        for name, _ in networks[0].named_parameters()
    }
    together = torch.vmap(lambda own: torch.func.functional_call(networks[0], own, (batch,)))(weights)
    for y, network in zip(together, networks, strict=True):
        torch.testing.assert_close(y, network(batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"reduction": 5}, {"reduction": 16}, {"reduction": 32}])
def test_a_reduction_that_does_not_fit(settings) -> None:
    with pytest.raises(UserError, match=f"reduction is {settings['reduction']}"):
        Ladder(LadderConfig(**settings), t5_shape((1, 2)))


def test_rotary_positions_turn_pairs_of_channels() -> None:
    with pytest.raises(UserError, match="reduction is 8"):
        Ladder(LadderConfig(reduction=8), llama_shape((1, 2)))
    assert Ladder(LadderConfig(reduction=8, head_size=2), llama_shape((1, 2))).sides["decoder"].head_size == 2


def test_a_head_size_that_is_given_needs_no_division() -> None:
    network = Ladder(LadderConfig(reduction=16, head_size=3), t5_shape((1, 2)))
    assert network(t5_batch(2)).shape == (2, 8, 32)


@pytest.mark.parametrize("settings", [{"reduction": 0}, {"dropout": 1.0}, {"temperature": 0}])
def test_bad_settings(settings) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        LadderConfig(**settings)
