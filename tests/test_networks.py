"""READ against its equations, torch's own cells, and parameter counts worked out by hand."""

import dataclasses

import pytest
import torch

from read_cache.errors import UserError
from read_cache.loader.batch import Batch, StackBatch, rms_norm
from read_cache.networks.cells import CELL_FUNCTIONS, GATES, STATES
from read_cache.networks.config import CELLS, BackboneShape, ReadConfig
from read_cache.networks.inputs import WholeStates
from read_cache.networks.read import build_network

BASE = BackboneShape(
    width=768, encoder_layers=tuple(range(1, 13)), decoder_layers=tuple(range(1, 13)), heads=12
)  # T5-base
SMALL = BackboneShape(width=20, encoder_layers=(1, 2, 3), decoder_layers=(1, 2), heads=4)


def count(config: ReadConfig, shape: BackboneShape = BASE) -> int:
    """Trainable parameters of a network."""
    return sum(p.numel() for p in build_network(config, shape, 0).parameters())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # A stack: W_phi 768*128, W_psi and W_h 128*128 each, two biases, F, A, B; the decoder has C too; U 768*128.
        (ReadConfig("rnn", 128, initial_state="zero"), 2 * (98304 + 5 * 16384 + 2 * 128) + 16384 + 98304),
        # The first state adds W_0, 768*128, to each stack.
        (ReadConfig("rnn", 128), 2 * (2 * 98304 + 5 * 16384 + 2 * 128) + 16384 + 98304),
        # A GRU has three gates: W_phi, W_psi, W_h and the biases come three times.
        (ReadConfig("gru", 128, initial_state="zero"),
         2 * (3 * (98304 + 2 * 16384 + 2 * 128) + 3 * 16384) + 16384 + 98304),
        (ReadConfig("lstm", 256, initial_state="zero"),
         2 * (4 * (196608 + 2 * 65536 + 2 * 256) + 3 * 65536) + 65536 + 196608),
        # Without the Joiner only the decoder's W_phi, W_h, biases and U are left.
        (ReadConfig("rnn", 128, attention="none", initial_state="zero"), 98304 + 16384 + 2 * 128 + 98304),
        # A mixture of 12 heads a layer: encoder self, decoder self, cross.
        (ReadConfig("rnn", 128, attention="heads", initial_state="zero"),
         2 * (98304 + 5 * 16384 + 2 * 128) + 16384 + 98304 + 3 * 144),
        # Untied: 12 sets, without W_h and its bias.
        (ReadConfig("rnn", 128, recurrent=False, initial_state="zero"),
         12 * (2 * (98304 + 4 * 16384 + 128) + 16384) + 98304),
    ],
)  # fmt: skip
def test_parameter_counts_are_those_worked_out_by_hand(config, expected) -> None:
    assert count(config) == expected


@pytest.mark.parametrize(
    ("cell", "hidden", "millions"),
    [("rnn", 128, 0.428), ("rnn", 256, 0.920), ("gru", 128, 0.888), ("gru", 256, 1.971), ("lstm", 256, 2.496)],
)
def test_two_stacks_without_a_joiner_have_the_published_codes_parameters(cell, hidden, millions) -> None:
    """The published code has an up-projection with a bias on both stacks; ours has one, without a bias."""
    decoder_alone = count(ReadConfig(cell, hidden, attention="none", initial_state="zero"))
    assert 2 * (decoder_alone + BASE.width) / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_cells_are_torchs(cell) -> None:
    torch.manual_seed(0)
    reference = {"rnn": torch.nn.RNNCell, "gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}[cell](5, 7)
    x, state = torch.randn(4, 5), tuple(torch.randn(4, 7) for _ in range(STATES[cell]))
    from_input = torch.nn.functional.linear(x, reference.weight_ih, reference.bias_ih)
    from_state = torch.nn.functional.linear(state[0], reference.weight_hh, reference.bias_hh)
    assert from_input.shape[-1] == GATES[cell] * 7
    found = CELL_FUNCTIONS[cell](from_input, from_state, state)
    expected = reference(x, state if cell == "lstm" else state[0])
    torch.testing.assert_close(found if cell == "lstm" else found[0], expected)


def random_batch(attention: str, seed: int = 0) -> Batch:
    """Two examples of five tokens and two nodes, with attention weights that sum to one."""
    g = torch.Generator().manual_seed(seed)

    def weights(layers: int, to: int, source: int) -> torch.Tensor | None:
        heads = (4,) if attention == "heads" else ()
        logits = torch.randn(layers, *heads, 2, to, source, generator=g)
        return None if attention == "none" else logits.softmax(-1)

    encoder, decoder = torch.randn(4, 2, 5, 20, generator=g), torch.randn(3, 2, 2, 20, generator=g)
    return Batch(
        StackBatch(rms_norm(encoder), weights(3, 5, 5), torch.ones(2, 5, dtype=torch.bool), (1, 2, 3)),
        StackBatch(rms_norm(decoder), weights(2, 2, 2), torch.ones(2, 2, dtype=torch.bool), (1, 2)),
        weights(2, 2, 5),
        decoder[-1],
        torch.zeros(2, 2, dtype=torch.long),
        torch.zeros(2, 2, dtype=torch.long),
    )


def test_rnn_by_the_letters_of_equation_1() -> None:
    """Token by token and sum by sum, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        network = build_network(ReadConfig("rnn", 6, initial_state="zero"), SMALL, 0)
        torch.nn.init.normal_(network.U)
        batch = random_batch("mean")
        y = network(batch)
        p = {name: value.detach().squeeze(0) for name, value in network.named_parameters()}
        for b in range(2):
            e = [torch.zeros(6) for _ in range(5)]
            for i in range(3):
                f = [p["encoder.F"] @ h for h in e]
                e = [
                    torch.tanh(
                        p["encoder.W_phi"] @ batch.encoder.values[i + 1, b, a]
                        + p["encoder.W_psi"]
                        @ (
                            p["encoder.A"] @ f[a]
                            + sum(batch.encoder.attention[i, b, a, c] * (p["encoder.B"] @ f[c]) for c in range(5))
                        )
                        + p["encoder.b"] + p["encoder.W_h"] @ e[a] + p["encoder.b_h"]
                    )
                    for a in range(5)
                ]  # fmt: skip
            d = [torch.zeros(6) for _ in range(2)]
            for i in range(2):
                f = [p["decoder.F"] @ h for h in d]
                d = [
                    torch.tanh(
                        p["decoder.W_phi"] @ batch.decoder.values[i + 1, b, t]
                        + p["decoder.W_psi"]
                        @ (
                            p["decoder.A"] @ f[t]
                            + sum(batch.decoder.attention[i, b, t, c] * (p["decoder.B"] @ f[c]) for c in range(2))
                            + sum(batch.cross_attention[i, b, t, c] * (p["decoder.C"] @ e[c]) for c in range(5))
                        )
                        + p["decoder.b"] + p["decoder.W_h"] @ d[t] + p["decoder.b_h"]
                    )
                    for t in range(2)
                ]  # fmt: skip
            for t in range(2):
                torch.testing.assert_close(y[b, t], batch.final[b, t] + network.U @ d[t])
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_mixture_of_heads_starts_as_their_mean() -> None:
    heads = random_batch("heads")
    mean = Batch(
        dataclasses.replace(heads.encoder, attention=heads.encoder.attention.mean(1)),
        dataclasses.replace(heads.decoder, attention=heads.decoder.attention.mean(1)),
        heads.cross_attention.mean(1), heads.final, heads.node_trie, heads.node_target,
    )  # fmt: skip
    of_heads = build_network(ReadConfig("gru", 6, attention="heads"), SMALL, 0)
    of_mean = build_network(ReadConfig("gru", 6, attention="mean"), SMALL, 0)
    of_heads.load_state_dict(of_mean.state_dict(), strict=False)
    for network in (of_heads, of_mean):
        torch.nn.init.constant_(network.U, 0.1)
    torch.testing.assert_close(of_heads(heads), of_mean(mean))


@pytest.mark.parametrize("attention", ["mean", "heads", "none"])
def test_an_untrained_network_is_the_backbone(attention) -> None:
    batch = random_batch(attention)
    assert torch.equal(build_network(ReadConfig(hidden=6, attention=attention), SMALL, 0)(batch), batch.final)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = build_network(ReadConfig(hidden=6), SMALL, 5).state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = build_network(ReadConfig(hidden=6), SMALL, 5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_first_state_is_of_the_embeddings_times_their_gain() -> None:
    stack, network = random_batch("mean").decoder, build_network(ReadConfig(hidden=6, embedding_gain=4.0), SMALL, 0)
    found = network.decoder.first_state(WholeStates(stack.values))[0]
    torch.testing.assert_close(found, torch.tanh(4 * stack.values[0] @ network.decoder.W_0.T))


def test_residual_weighs_the_backbones_final_state() -> None:
    batch, whole, half = random_batch("mean"), *(build_network(ReadConfig(residual=by), SMALL, 0) for by in (1.0, 0.5))
    for network in (whole, half):
        torch.nn.init.constant_(network.U, 0.1)
    torch.testing.assert_close(whole(batch) - half(batch), batch.final / 2)


def test_dropout_draws_from_the_networks_own_generator() -> None:
    network, batch = build_network(ReadConfig(hidden=6, dropout=0.5), SMALL, 0), random_batch("mean")
    torch.nn.init.normal_(network.U)
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        runs.append(network(batch, torch.Generator().manual_seed(3)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], network(batch))


@pytest.mark.parametrize(
    "settings",
    [
        {"cell": "transformer"},
        {"hidden": 0},
        {"dropout": 1.0},
        {"residual": 1.5},
        {"recurrent": False, "attention": "none"},
        {"aggregate": "sum"},
        {"initial_state": "ones"},
        {"embedding_gain": 0.0},
        {"embedding_gain": 4.0, "initial_state": "zero"},
        {"matching": -1},
        {"matching": 8, "initial_state": "zero"},
        {"matching": 8, "attention": "none"},
    ],
)
def test_contradictions_are_refused(settings) -> None:
    with pytest.raises(UserError):
        ReadConfig(**settings)


def test_rms_norm_survives_t5s_large_residuals() -> None:
    large = torch.tensor([[1e5, -1e5, 3e4, 0.0]])
    assert torch.isfinite(rms_norm(large)).all()
    assert float(rms_norm(large).pow(2).mean()) == pytest.approx(1, rel=1e-5)
