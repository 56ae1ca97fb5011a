"""READ against its equations, torch's own cells, and parameter counts worked out by hand."""

import dataclasses

import pytest
import torch

from read_cache.errors import UserError
from read_cache.loader.batch import rms_norm
from read_cache.networks.base import Needs, NetworkShape, StackShape, build_network, check_needs
from read_cache.networks.read import CELLS, Read, ReadConfig
from support.batches import as_dtype, bert_shape, causal_shape, random_batch, t5_shape
from support.slow_read import slow_read

BASE = t5_shape(12, 12, width=768, heads=12)  # T5-base
SHAPES = {"t5": t5_shape(), "bert": bert_shape(), "causal": causal_shape()}
RAGGED = {
    "t5": {"encoder": [5, 3], "decoder": [2, 3]}, "bert": {"encoder": [5, 2]}, "causal": {"decoder": [4, 6]},
}  # fmt: skip


def settings(**values: object) -> ReadConfig:
    """A configuration with the mean over heads unless `values` say otherwise."""
    return ReadConfig(**{"attention": "mean", **values})


def count(config: ReadConfig, shape: NetworkShape = BASE) -> int:
    """Trainable parameters of a network."""
    return sum(p.numel() for p in build_network("read", config, shape, 0).parameters())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # A stack: W_phi 768*128, W_psi and W_h 128*128 each, two biases, F, A, B; the decoder has C too; U 768*128.
        (settings(cell="rnn", initial_state="zero"), 2 * (98304 + 5 * 16384 + 2 * 128) + 16384 + 98304),
        # The first state adds W_0, 768*128, to each stack.
        (settings(cell="rnn"), 2 * (2 * 98304 + 5 * 16384 + 2 * 128) + 16384 + 98304),
        # A GRU has three gates: W_phi, W_psi, W_h and the biases come three times.
        (settings(cell="gru", initial_state="zero"),
         2 * (3 * (98304 + 2 * 16384 + 2 * 128) + 3 * 16384) + 16384 + 98304),
        (settings(cell="lstm", hidden=256, initial_state="zero"),
         2 * (4 * (196608 + 2 * 65536 + 2 * 256) + 3 * 65536) + 65536 + 196608),
        # Without the Joiner only the decoder's W_phi, W_h, biases and U are left.
        (settings(cell="rnn", attention="none", initial_state="zero"), 98304 + 16384 + 2 * 128 + 98304),
        # A mixture of 12 heads a layer: encoder self, decoder self, cross.
        (settings(cell="rnn", attention="heads", initial_state="zero"),
         2 * (98304 + 5 * 16384 + 2 * 128) + 16384 + 98304 + 3 * 144),
        # Untied: 12 sets, without W_h and its bias.
        (settings(cell="rnn", recurrent=False, initial_state="zero"),
         12 * (2 * (98304 + 4 * 16384 + 128) + 16384) + 98304),
    ],
)  # fmt: skip
def test_parameter_counts_are_those_worked_out_by_hand(config, expected) -> None:
    assert count(config) == expected


def test_one_stack_has_no_cross_term() -> None:
    """MiniLM's shape: W_phi and U 384*128, W_0, and of the Joiner F, A, B and W_psi, without C."""
    found = count(settings(cell="rnn"), bert_shape(6, width=384, heads=12))
    assert found == 3 * 384 * 128 + 5 * 128 * 128 + 2 * 128


@pytest.mark.parametrize(
    ("cell", "hidden", "millions"),
    [("rnn", 128, 0.428), ("rnn", 256, 0.920), ("gru", 128, 0.888), ("gru", 256, 1.971), ("lstm", 256, 2.496)],
)
def test_two_stacks_without_a_joiner_have_the_published_codes_parameters(cell, hidden, millions) -> None:
    """The published code has an up-projection with a bias on both stacks; ours has one, without a bias."""
    decoder_alone = count(settings(cell=cell, hidden=hidden, attention="none", initial_state="zero"))
    assert 2 * (decoder_alone + 768) / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize("name", CELLS)
def test_cells_are_torchs(name) -> None:
    torch.manual_seed(0)
    reference = {"rnn": torch.nn.RNNCell, "gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}[name](5, 7)
    (cell, gates), x, state = CELLS[name], torch.randn(4, 5), (torch.randn(4, 7), torch.randn(4, 7))
    from_input = torch.nn.functional.linear(x, reference.weight_ih, reference.bias_ih)
    from_state = torch.nn.functional.linear(state[0], reference.weight_hh, reference.bias_hh)
    assert from_input.shape[-1] == gates * 7
    found = cell(from_input, from_state, state)
    expected = reference(x, state if name == "lstm" else state[0])
    torch.testing.assert_close(found if name == "lstm" else found[0], expected)


def scrambled(config: ReadConfig, shape: NetworkShape, dtype: torch.dtype = torch.float32) -> Read:
    """A network none of whose parameters has a value that hides a mistake."""
    network = build_network("read", config, shape, 0)
    g = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=g) * 0.3)
    return network.to(dtype)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "more",
    [{}, {"initial_state": "zero"}, {"attention": "heads"}, {"aggregate": "mean"}, {"recurrent": False},
     {"recurrent": False, "attention": "heads", "aggregate": "mean"}, {"attention": "none"},
     {"attention": "none", "recurrent": False, "aggregate": "mean", "initial_state": "zero"}],
    ids=lambda more: "-".join(map(str, more.values())) or "plain",
)  # fmt: skip
def test_it_is_equation_1_token_by_token(family, cell, more) -> None:
    """In float64, on ragged batches, forward and gradient."""
    config = settings(cell=cell, hidden=6, **more)
    network = scrambled(config, SHAPES[family], torch.float64)
    batch = as_dtype(random_batch(SHAPES[family], config.attention, RAGGED[family]), torch.float64)
    real = batch.stacks[SHAPES[family].readout].real
    found, expected = network(batch), slow_read(network, batch)
    torch.testing.assert_close(found[real], expected[real], atol=1e-9, rtol=1e-9)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [
        torch.autograd.grad((y * direction)[real].sum(), list(network.parameters())) for y in (found, expected)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("attention", ["mean", "heads", "none"])
def test_padding_changes_nothing(family, attention) -> None:
    """A row alone, and beside a longer one."""
    network = scrambled(settings(hidden=6, attention=attention), SHAPES[family])
    batch = random_batch(SHAPES[family], attention, RAGGED[family])
    lengths = {name: counts[1] for name, counts in RAGGED[family].items()}

    def alone(values: torch.Tensor | None, batch_axis: int, *extents: int) -> torch.Tensor | None:
        if values is None:
            return None
        values = values.narrow(batch_axis, 1, 1)
        for axis, extent in enumerate(extents, batch_axis + 1):
            values = values.narrow(axis, 0, extent)
        return values

    stacks, before = {}, 2 if attention == "heads" else 1
    for name, stack in batch.stacks.items():
        n, m = lengths[name], lengths.get(network.shape.stack(name).attends_to or "", 0)
        stacks[name] = dataclasses.replace(
            stack,
            values=alone(stack.values, 1, n),
            self_attention=alone(stack.self_attention, before, n, n),
            cross_attention=alone(stack.cross_attention, before, n, m),
            real=alone(stack.real, 0, n),
            shared={},
        )
    n = lengths[network.readout]
    one = dataclasses.replace(batch, stacks=stacks, final=alone(batch.final, 0, n), subsets={})
    torch.testing.assert_close(network(batch)[1, :n], network(one)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", SHAPES)
def test_a_mixture_of_heads_starts_as_their_mean(family) -> None:
    shape = SHAPES[family]
    heads = random_batch(shape, "heads")
    stacks = {}
    for name, stack in heads.stacks.items():
        cross = None if stack.cross_attention is None else stack.cross_attention.mean(1)
        stacks[name] = dataclasses.replace(
            stack, self_attention=stack.self_attention.mean(1), cross_attention=cross, shared={}
        )
    mean = dataclasses.replace(heads, stacks=stacks, subsets={})
    of_heads = build_network("read", settings(hidden=6, attention="heads"), shape, 0)
    of_mean = build_network("read", settings(hidden=6), shape, 0)
    of_heads.load_state_dict(of_mean.state_dict(), strict=False)
    for network in (of_heads, of_mean):
        torch.nn.init.constant_(network.U, 0.1)
    torch.testing.assert_close(of_heads(heads), of_mean(mean))


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("attention", ["mean", "heads", "none"])
def test_an_untrained_network_is_the_backbone(family, attention) -> None:
    batch = random_batch(SHAPES[family], attention)
    network = build_network("read", settings(hidden=6, attention=attention), SHAPES[family], 0)
    assert torch.equal(network(batch), batch.final)


def test_without_a_joiner_the_readout_stack_alone_is_used() -> None:
    network = scrambled(settings(hidden=6, attention="none"), t5_shape())
    batch = random_batch(t5_shape(), "none")
    y = network(batch)
    batch.stacks["encoder"].values.fill_(float("nan"))
    assert torch.equal(network(batch), y)
    assert list(network.stacks) == ["decoder"]


def test_the_context_is_all_that_the_readout_stack_needs_of_the_others() -> None:
    network, batch = scrambled(settings(hidden=6), t5_shape()), random_batch(t5_shape())
    context = network.context(batch)
    assert {name: tuple(values.shape) for name, values in context.items()} == {"encoder": (2, 5, 6)}
    y = network(batch)
    batch.stacks["encoder"].values.fill_(float("nan"))
    assert torch.equal(network.corrected(batch, context), y)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = build_network("read", settings(hidden=6), t5_shape(), 5).state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = build_network("read", settings(hidden=6), t5_shape(), 5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())
    third = build_network("read", settings(hidden=6), t5_shape(), 6).state_dict()
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_dropout_draws_from_the_networks_own_generator() -> None:
    network, batch = build_network("read", settings(hidden=6, dropout=0.5), t5_shape(), 0), random_batch(t5_shape())
    torch.nn.init.normal_(network.U)
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        runs.append(network(batch, torch.Generator().manual_seed(3)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], network(batch))


def test_layers_that_are_left_out_are_not_read(words_store) -> None:
    from read_cache.store.folder import StoreFolder

    manifest = StoreFolder(words_store).read_manifest()
    shape = NetworkShape.of(manifest.backbone, manifest.format, "2")
    assert shape.layers == {"encoder": (2, 3), "decoder": (2,)}
    network = build_network("read", settings(hidden=6, layers="2"), shape, 0)
    torch.nn.init.normal_(network.U)
    batch = random_batch(t5_shape(3, 2, width=32))
    y = network(batch)
    for stack in batch.stacks.values():
        stack.values[1].fill_(float("nan"))
        stack.self_attention[0].fill_(float("nan"))
    batch.subsets.clear()
    assert torch.equal(network(batch), y)
    with pytest.raises(UserError, match="layer 4"):
        NetworkShape.of(manifest.backbone, manifest.format, "4")


def test_it_takes_the_stores_attention_and_says_what_it_needs(words_store) -> None:
    from read_cache.store.folder import StoreFolder

    manifest = StoreFolder(words_store).read_manifest()
    assert ReadConfig().attention is None
    for attention in ("mean", "heads", "none"):
        format = manifest.format.replaced(attention=attention)
        shape, resolved = NetworkShape.of(manifest.backbone, format), Read.resolve(ReadConfig(), format)
        assert resolved.attention == attention
        assert Read.needs(resolved) == Needs(attention, positions="readout" if attention == "none" else "all")
        check_needs(Read(resolved, shape), format, "n", "s")
        check_needs(Read(settings(attention="none"), shape), format, "n", "s")
        assert Read.resolve(settings(attention="none"), format).attention == "none"
        other = settings(attention="heads" if attention != "heads" else "mean")
        with pytest.raises(UserError, match="attention"):
            check_needs(Read(other, shape), format, "n", "s")


@pytest.mark.parametrize(
    "values",
    [
        {"cell": "transformer"},
        {"hidden": 0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"recurrent": False, "attention": "none"},
        {"recurrent": False, "attention": "none", "aggregate": "mean"},
        {"aggregate": "sum"},
        {"initial_state": "ones"},
        {"attention": "max"},
        {"matching": 8},
        {"embedding_gain": 2.0},
        {"residual": 0.5},
        {"hiden": 8},
    ],
    ids=str,
)
def test_contradictions_and_unknown_settings_are_refused(values) -> None:
    with pytest.raises(UserError) as told:
        ReadConfig(**values)
    assert any(name in str(told.value) for name in values)


def test_rms_norm_survives_t5s_large_residuals() -> None:
    large = torch.tensor([[1e5, -1e5, 3e4, 0.0]])
    assert torch.isfinite(rms_norm(large)).all()
    assert float(rms_norm(large).pow(2).mean()) == pytest.approx(1, rel=1e-5)


def test_a_shape_knows_its_stacks() -> None:
    shape = t5_shape()
    assert shape.readout == "decoder"
    assert isinstance(shape.stack("encoder"), StackShape)
    assert shape.layers == {"encoder": (1, 2, 3), "decoder": (1, 2)}
