"""Side-Tuning: its count, what it reads, and its output beside that of a ladder with the same weights."""

import dataclasses

import pytest
import torch

from read_cache.errors import UserError
from read_cache.networks.base import Needs, NetworkShape, build_network
from read_cache.networks.ladder import LadderConfig
from read_cache.networks.side_tuning import SideTuning, SideTuningConfig
from support.ladders import SMALL, scrambled, t5_batch, t5_shape

LAYERS = (1, 2, 3)
SETTINGS = SideTuningConfig(**SMALL.values() | {"merge_last": True})


def side_tuning(shape: NetworkShape, config: SideTuningConfig = SETTINGS) -> SideTuning:
    """Side-Tuning with the weights of `scrambled`, and a gate of its own."""
    network = build_network("side_tuning", config, shape, seed=0)
    assert isinstance(network, SideTuning)
    weights = scrambled(SMALL, t5_shape(LAYERS)).state_dict() | {"merge": torch.tensor(0.05)}
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network


def test_the_published_count_of_parameters() -> None:
    with torch.device("meta"):
        network = SideTuning(SideTuningConfig(), t5_shape(tuple(range(1, 13)), 768, 12))
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_325_441
    assert SideTuning.needs(SideTuningConfig()) == Needs(raw=True, last_only=True)


@pytest.mark.parametrize("merged", [True, False])
def test_it_is_a_ladder_with_open_gates_whose_output_is_mixed_with_the_last_state(merged) -> None:
    batch = t5_batch(3)
    ladder = scrambled(SMALL, t5_shape(LAYERS))
    for side in ladder.sides.values():
        side.gates.data.fill_(50.0)
    network = side_tuning(t5_shape(LAYERS), SETTINGS.replaced(merge_last=merged))
    expected = ladder(batch)
    if merged:
        gate = torch.sigmoid(torch.tensor(0.5))
        expected = gate * expected + (1 - gate) * batch.final
    torch.testing.assert_close(network(batch), expected, atol=1e-5, rtol=1e-4)
    network(batch).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_it_reads_two_states_and_has_a_block_for_every_layer() -> None:
    batch = t5_batch(3)
    shape = t5_shape(LAYERS)
    y = side_tuning(shape)(batch)
    for stack in batch.stacks.values():
        stack.values[1:3] = float("nan")
    last = NetworkShape(tuple(dataclasses.replace(stack, layers=(3,)) for stack in shape.stacks))
    assert torch.equal(side_tuning(last)(dataclasses.replace(batch, subsets={})), y)
    assert side_tuning(shape).shape == side_tuning(last).shape


def test_layers_cannot_be_chosen() -> None:
    with pytest.raises(UserError, match="layers is '2,3'"):
        SideTuningConfig(layers="2,3")
    assert not LadderConfig().merge_last
