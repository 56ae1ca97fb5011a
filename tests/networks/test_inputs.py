"""What networks are given of a batch: normalised, standardised, shared; components as their whole states would be."""

import dataclasses

import pytest
import torch

from read_cache.loader.batch import StackBatch, Statistics, rms_norm
from read_cache.loader.batches import SplitBatches, channel_statistics, make_collator
from read_cache.networks.base import NetworkShape, SideNetwork, build_network
from read_cache.networks.inputs import KINDS, Components, Standardiser, WholeStates, dropout, dropped_out, network_input
from read_cache.networks.read import ReadConfig
from read_cache.store.reader import StoreReader
from read_cache.store.schema import DEVIATION_FLOOR
from support.batches import random_batch, t5_shape
from support.stores import make_store


def raw_stack(dtype: torch.dtype) -> StackBatch:
    """States as a backbone gave them, of very different sizes; three layers of 1,500 tokens."""
    g = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, 500, 20, generator=g) * torch.rand(4, 3, 500, 1, generator=g) * 1e4
    return StackBatch(
        "encoder", values.to(dtype), None, None, torch.ones(3, 500, dtype=torch.bool), (1, 2, 3), raw=True
    )


def statistics(layers: int = 3, width: int = 20) -> Statistics:
    g = torch.Generator().manual_seed(1)
    mean, deviation = torch.randn(layers + 1, width, generator=g), torch.rand(layers + 1, width, generator=g)
    return Statistics(mean, deviation, tuple(range(1, layers + 1)))


def standardiser(given: Statistics) -> Standardiser:
    found = Standardiser(len(given.mean) - 1, given.mean.shape[1])
    found.take(given)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_normalised_then_standardised(dtype) -> None:
    stack, given = raw_stack(dtype), statistics()
    plain = network_input(stack, None)
    torch.testing.assert_close(plain.phi_LBSD, rms_norm(stack.values.float()), atol=1e-5, rtol=1e-5)
    found = network_input(stack, standardiser(given))
    scale = 1 / (given.deviation**2 + DEVIATION_FLOOR**2).sqrt()
    expected = (rms_norm(stack.values.float()) - given.mean[:, None, None]) * scale[:, None, None]
    torch.testing.assert_close(found.phi_LBSD, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(given.scale, scale)


def test_networks_with_equal_statistics_share_one_input() -> None:
    stack, given = raw_stack(torch.float32), statistics()
    one, same, equal = standardiser(given), standardiser(given), standardiser(dataclasses.replace(given))
    assert network_input(stack, one) is network_input(stack, same) is network_input(stack, equal)
    assert network_input(stack, None) is network_input(stack, None)
    assert network_input(stack, None) is not network_input(stack, one)
    other = standardiser(dataclasses.replace(given, mean=given.mean + 1))
    assert network_input(stack, other) is not network_input(stack, one)
    for shift in range(5):
        network_input(stack, standardiser(dataclasses.replace(given, mean=given.mean + shift)))
    assert len(stack.shared) <= KINDS
    with torch.autocast("cpu", torch.bfloat16):
        assert network_input(stack, one).phi_LBSD.dtype == torch.bfloat16


def test_statistics_that_are_loaded_are_seen() -> None:
    stack, saved = raw_stack(torch.float32), standardiser(statistics())
    loaded = Standardiser(3, 20)
    before = network_input(stack, loaded)
    loaded.load_state_dict(saved.state_dict())
    assert network_input(stack, loaded) is network_input(stack, saved)
    assert network_input(stack, loaded) is not before


@pytest.mark.parametrize("shared", [1, 3])
def test_products_with_every_layer(shared) -> None:
    """One set of weights for all layers, or one for each."""
    g = torch.Generator().manual_seed(2)
    phi = torch.randn(4, 2, 5, 20, generator=g)
    W, b, W_0 = (torch.randn(shared, 6, 20, generator=g), torch.randn(shared, 6, generator=g), torch.randn(6, 20))
    found = WholeStates(phi).layers(W, b)
    for i, product in enumerate(found):
        k = 0 if shared == 1 else i
        torch.testing.assert_close(product, phi[i + 1] @ W[k].T + b[k], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(WholeStates(phi).embeddings(W_0), phi[0] @ W_0.T, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def components(tmp_path_factory, models, rows_folder) -> StoreReader:
    """A store of eight int8 components."""
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    return make_store(tmp_path_factory.mktemp("rank") / "s", models["tied"], *words, rank=8, dtype="int8")


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("initial_state", ["embeddings", "zero"])
def test_components_are_used_as_their_whole_states_would_be(components, cell, recurrent, initial_state) -> None:
    store = components
    train = SplitBatches(store.split("train"), make_collator(store), 8)
    shape = NetworkShape.of(store.manifest.backbone, store.manifest.format)
    config = ReadConfig(cell=cell, hidden=8, recurrent=recurrent, initial_state=initial_state, attention="mean")

    def build(config: ReadConfig) -> SideNetwork:
        network = build_network("read", config, shape, seed=2)
        network.set_statistics(channel_statistics(train))
        torch.nn.init.normal_(network.U, std=0.5, generator=torch.Generator().manual_seed(1))
        return network

    network, batch = build(config), next(train.in_order())
    encoder = batch.stacks["encoder"]
    assert encoder.values.shape[-1] == 8
    whole = dataclasses.replace(encoder, values=encoder.whole_states(), projection=None, shared={})
    expanded = dataclasses.replace(batch, stacks=batch.stacks | {"encoder": whole}, subsets={})
    assert isinstance(network_input(encoder, None), Components)
    expected = network(expanded)
    torch.testing.assert_close(network(batch), expected, atol=1e-4, rtol=1e-4)
    dropping = build(config.replaced(dropout=0.3))
    found = [dropping(one, torch.Generator().manual_seed(5)) for one in (batch, expanded)]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0], expected, atol=1e-2)


def test_the_components_of_some_layers(components) -> None:
    store = components
    whole = next(SplitBatches(store.split("train"), make_collator(store), 8).in_order())
    fewer = next(SplitBatches(store.split("train"), make_collator(store, layers=[2]), 8).in_order())
    expected = whole.stacks["encoder"].whole_states()[[0, 2, 3]]
    torch.testing.assert_close(fewer.stacks["encoder"].whole_states(), expected)
    torch.testing.assert_close(whole.stacks["encoder"].of((2, 3)).whole_states(), expected)


def test_statistics_of_the_layers_that_a_network_runs_over() -> None:
    shape = t5_shape()
    some = NetworkShape(
        (dataclasses.replace(shape.stacks[0], layers=(1, 3)), dataclasses.replace(shape.stacks[1], layers=(2,)))
    )
    network = build_network("read", ReadConfig(attention="mean", layers="1,3"), some, 0)
    given = {"encoder": statistics(3), "decoder": statistics(2)}
    network.set_statistics(given)
    assert torch.equal(network.stacks["encoder"].standardiser.mean_LD, given["encoder"].mean[[0, 1, 3]])
    assert torch.equal(network.stacks["decoder"].standardiser.scale_LD, given["decoder"].scale[[0, 2]])
    batch = random_batch(shape)
    batch.stacks["encoder"].values[2].fill_(float("nan"))
    assert network(batch).isfinite().all()


def test_dropout_keeps_the_mean_and_is_none_outside_training() -> None:
    phi = WholeStates(torch.ones(3, 4, 50, 60))
    assert dropped_out(phi, 0.4, None) is phi
    assert dropped_out(phi, 0.0, torch.Generator()) is phi
    found = dropped_out(phi, 0.4, torch.Generator().manual_seed(0)).phi_LBSD
    torch.testing.assert_close(found.unique(), torch.tensor([0.0, 1 / (1 - 26214 / 65536)]))  # 0.4 in 65536 steps
    assert float(found.mean()) == pytest.approx(1, rel=0.02)


def test_the_largest_rate_leaves_finite_values() -> None:
    assert dropout(torch.ones(9), 0.999999, torch.Generator().manual_seed(0)).isfinite().all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_every_element_is_dropped_at_the_same_rate_whatever_others_share_its_random_number(rate) -> None:
    found = dropout(torch.ones(40003), rate, torch.Generator().manual_seed(1))
    deviation = (rate * (1 - rate) / 10000) ** 0.5
    assert [float((found[lane::4] == 0).float().mean()) for lane in range(4)] == pytest.approx(
        [rate] * 4, abs=4 * deviation
    )
    first, second = (found[lane::4][:10000] == 0 for lane in (0, 1))
    assert float((first & second).float().mean()) == pytest.approx(rate**2, abs=0.02)
