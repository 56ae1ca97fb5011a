"""The layer probe against its equation, position by position, and parameter counts worked out by hand."""

import dataclasses

import pytest
import torch
from torch import Tensor

import read_cache
from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.loader.batch import Batch, Positions
from read_cache.loader.batches import SplitBatches, channel_statistics, make_collator
from read_cache.networks.base import Needs, NetworkShape, build_network
from read_cache.networks.inputs import Components, network_input
from read_cache.networks.layer_probe import LayerProbe, LayerProbeConfig
from read_cache.store.reader import StoreReader
from support.batches import bert_shape, causal_shape, random_batch, t5_shape
from support.stores import make_store
from support.training import network, train_store

PAIRS = NetworkShape((dataclasses.replace(bert_shape().stacks[0], segments=True),))
SHAPES = {"t5": t5_shape(), "bert": PAIRS, "causal": causal_shape()}
RAGGED = {
    "t5": {"encoder": [5, 3], "decoder": [2, 3]}, "bert": {"encoder": [6, 4]}, "causal": {"decoder": [4, 6]},
}  # fmt: skip
SEGMENT = torch.tensor([[-1, 0, 0, -1, 1, -1], [-1, 0, -1, -1, -1, -1]])
"""Two texts a row; the second row's second text is empty."""


def build(shape: NetworkShape, scrambled: bool = True, **settings: object) -> LayerProbe:
    """A network of width 6, none of whose weights hides a mistake."""
    network = build_network("layer_probe", LayerProbeConfig(**{"hidden": 6, **settings}), shape, 0)
    assert isinstance(network, LayerProbe)
    g = torch.Generator().manual_seed(3)
    for parameter in network.parameters() if scrambled else ():
        parameter.data.add_(torch.randn(parameter.shape, generator=g) * 0.3)
    return network


def batch_of(family: str) -> Batch:
    batch = random_batch(SHAPES[family], "none", RAGGED[family])
    if family == "bert":
        batch.targets.positions["encoder"] = Positions(batch.stacks["encoder"].real, SEGMENT)
    return batch


def slow_pool(pooling: str, states: Tensor, real: Tensor, segment: Tensor | None) -> Tensor:
    """Pool one state of one row, [S, D]."""
    if pooling == "first":
        return states[0]
    if pooling == "mean":
        return states[real].mean(0)
    assert segment is not None
    a, b = (states[segment == text].sum(0) / max(1, int((segment == text).sum())) for text in (0, 1))
    return torch.cat([a, b, (a - b).abs(), a * b])


def slow(network: LayerProbe, batch: Batch) -> Tensor:
    """y by its equation, for one readout position after another."""
    y = torch.empty_like(batch.final)
    for row, position in torch.cartesian_prod(*(torch.arange(size) for size in batch.final.shape[:2])).tolist():
        inner = network.b
        for name, stack in batch.stacks.items():
            segment = batch.targets.positions[name].segment
            for state, values in enumerate(stack.values[:, row]):
                if network.shape.stack(name).causal:
                    x = values[position]
                else:
                    own = None if segment is None else segment[row]
                    x = slow_pool(network.config.pooling, values, stack.real[row], own)
                inner = inner + network.W[name][state] @ x
        y[row, position] = batch.final[row, position] + network.U @ torch.tanh(inner)
    return y


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("t5", "mean"), ("t5", "first"), ("bert", "mean"), ("bert", "first"), ("bert", "apart"), ("causal", "mean")],
)
def test_it_is_its_equation_position_by_position(family, pooling) -> None:
    """Values in padding and at later positions change nothing."""
    network, batch = build(SHAPES[family], pooling=pooling), batch_of(family)
    y = network(batch)
    torch.testing.assert_close(y, slow(network, batch), atol=1e-5, rtol=1e-4)
    spoilt = batch_of(family)
    for stack in spoilt.stacks.values():
        stack.values[:, ~stack.real] = 7.0
    real = batch.stacks[network.readout].real
    torch.testing.assert_close(network(spoilt)[real], y[real])
    if SHAPES[family].stacks[-1].causal:
        spoilt.stacks[network.readout].values[:, :, 1:] = 7.0
        spoilt.stacks[network.readout].shared.clear()
        torch.testing.assert_close(network(spoilt)[:, 0], y[:, 0])


@pytest.mark.parametrize("family", SHAPES)
def test_an_untrained_network_is_the_backbone(family) -> None:
    batch = batch_of(family)
    assert torch.equal(build(SHAPES[family], scrambled=False)(batch), batch.final)


@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        # T5-base: 13 states of 768 channels in each stack; the bias; U.
        (t5_shape(12, 12, width=768, heads=12), {}, 2 * 13 * 768 * 128 + 128 + 768 * 128),
        (PAIRS, {"hidden": 6}, 4 * 20 * 6 + 6 + 20 * 6),
        (PAIRS, {"hidden": 6, "pooling": "apart"}, 4 * 80 * 6 + 6 + 20 * 6),
    ],
)
def test_parameter_counts_are_those_worked_out_by_hand(shape, settings, expected) -> None:
    network = build_network("layer_probe", LayerProbeConfig(**settings), shape, 0)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_it_needs() -> None:
    assert LayerProbe.needs(LayerProbeConfig()) == Needs(positions="pooled")


def test_the_context_is_all_that_the_readout_stack_needs_of_the_others() -> None:
    network, batch = build(t5_shape()), batch_of("t5")
    context, y = network.context(batch), network(batch)
    assert {name: tuple(values.shape) for name, values in context.items()} == {"encoder": (2, 1, 6)}
    batch.stacks["encoder"].values.fill_(float("nan"))
    batch.stacks["encoder"].shared.clear()
    assert torch.equal(network.corrected(batch, context), y)


def test_dropout_draws_from_the_networks_own_generator() -> None:
    network, batch, state = build(t5_shape(), dropout=0.5), batch_of("t5"), torch.get_rng_state()
    first, again, other = (network(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, network(batch))
    assert torch.equal(state, torch.get_rng_state())


def test_layers_that_are_left_out_are_not_read() -> None:
    stacks = t5_shape().stacks
    shape = NetworkShape((dataclasses.replace(stacks[0], layers=(1, 3)), dataclasses.replace(stacks[1], layers=(2,))))
    network, batch = build(shape), batch_of("t5")
    y = network(batch)
    batch.stacks["encoder"].values[2].fill_(float("nan"))
    batch.stacks["decoder"].values[1].fill_(float("nan"))
    batch.subsets.clear()
    assert torch.equal(network(batch), y)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_components_are_pooled_as_their_whole_states(tmp_path, models, rows_folder, pooling) -> None:
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    store = make_store(tmp_path / "s", models["tied"], *words, rank=8, dtype="int8")
    batches = SplitBatches(store.split("train"), make_collator(store), 8)
    network = build(NetworkShape.of(store.manifest.backbone, store.manifest.format), pooling=pooling)
    network.set_statistics(channel_statistics(batches))
    batch = next(batches.in_order())
    encoder = batch.stacks["encoder"]
    assert isinstance(network_input(encoder, None), Components)
    whole = dataclasses.replace(encoder, values=encoder.whole_states(), projection=None, shared={})
    expanded = dataclasses.replace(batch, stacks=batch.stacks | {"encoder": whole}, subsets={})
    torch.testing.assert_close(network(batch), network(expanded), atol=1e-4, rtol=1e-4)


def test_texts_apart_need_a_backbone_that_knows_them(words_store) -> None:
    manifest = StoreReader(words_store).manifest
    with pytest.raises(UserError, match="pooling"):
        build(NetworkShape.of(manifest.backbone, manifest.format), pooling="apart")
    batch = batch_of("bert")
    batch.targets.positions["encoder"] = Positions(batch.stacks["encoder"].real)
    with pytest.raises(UserError, match="classify"):
        build(PAIRS, pooling="apart")(batch)


def test_texts_apart_from_training_to_prediction(bert_store, bert, tmp_path) -> None:
    config = network("layer_probe", 5e-3, hidden=8, pooling="apart")
    (result,) = train_store(bert_store, tmp_path, [config], RunConfig(epochs=2, batch_size=8))
    (row,) = read_cache.evaluate(bert_store, tmp_path)
    assert row["metric"] == pytest.approx(result.test, abs=1e-3)
    trained = read_cache.load_network(result.folder).network
    assert trained.U.abs().sum() > 0
    (found,) = read_cache.predict(
        str(bert), result.folder, [{"sentence1": "the old river", "sentence2": "a quiet town"}]
    )
    assert found["value"] is not None


@pytest.mark.parametrize("values", [{"hidden": 0}, {"dropout": 1.0}, {"pooling": "max"}, {"cell": "rnn"}], ids=str)
def test_bad_settings(values) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        LayerProbeConfig(**values)
