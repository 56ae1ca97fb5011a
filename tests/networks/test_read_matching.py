"""READ with matching: its additions against their equations, and READ itself without them."""

import dataclasses

import pytest
import torch
from torch.nn.functional import normalize

from read_cache.errors import UserError
from read_cache.loader.batch import StackBatch
from read_cache.networks.base import NetworkShape, build_network
from read_cache.networks.inputs import WholeStates
from read_cache.networks.read import ReadConfig
from read_cache.networks.read_matching import Matching, ReadMatching, ReadMatchingConfig
from support.batches import WIDTH, bert_shape, causal_shape, random_batch, stack_shape, t5_shape
from support.slow_read import slow_read

SHAPE = NetworkShape((stack_shape("encoder", 2, heads=2),))
REAL = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
NEUTRAL = {"matching": 0, "embedding_gain": 1.0, "residual": 1.0}


def build(shape: NetworkShape = SHAPE, **values: object) -> ReadMatching:
    """A network of seed 0 with attention mean unless `values` say otherwise."""
    settings = {"attention": "mean", "hidden": 7, "matching": 16}
    network = build_network("read_matching", ReadMatchingConfig(**{**settings, **values}), shape, 0)
    assert isinstance(network, ReadMatching)
    return network


@pytest.fixture
def embeddings() -> torch.Tensor:
    """[1, 2, 6, 20]: the first row's tokens 1 and 4 are the same; the second row's last two, padding, are its first."""
    values = torch.randn(1, 2, 6, WIDTH, generator=torch.Generator().manual_seed(0))
    values[0, 0, 4] = values[0, 0, 1]
    values[0, 1, 4:] = values[0, 1, 0]
    return values


@pytest.fixture
def matching() -> Matching:
    """As a network has it."""
    found = build().stacks["encoder"].matching
    assert isinstance(found, Matching)
    return found


@pytest.mark.parametrize("shape", [t5_shape(), bert_shape(), causal_shape()], ids=["t5", "bert", "causal"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("more", [{}, {"attention": "heads"}, {"aggregate": "mean"}], ids=str)
def test_without_its_additions_it_is_read(shape, cell, more) -> None:
    """The same weights from the same seed, and the same outputs, bit for bit."""
    values = {"attention": "mean", "hidden": 6, "cell": cell, **more}
    plain = build_network("read", ReadConfig(**values), shape, 5)
    found = build_network("read_matching", ReadMatchingConfig(**values | NEUTRAL), shape, 5)
    assert plain.state_dict().keys() == found.state_dict().keys()
    for network in (plain, found):
        torch.nn.init.normal_(network.U, generator=torch.Generator().manual_seed(1))
    batch = random_batch(shape, values["attention"])
    assert torch.equal(found(batch), plain(batch))
    torch.testing.assert_close(found(batch), slow_read(plain, batch), atol=1e-4, rtol=1e-4)


def test_it_is_its_equations_token_by_token(embeddings, matching) -> None:
    phi = WholeStates(embeddings)
    found = matching(phi, REAL, phi)
    for row, real in enumerate(REAL.sum(1).tolist()):
        x = embeddings[0, row, :real]
        q = [normalize(matching.P @ token, dim=0) for token in x]
        for a in range(real):
            alike = {b: torch.exp(matching.g * (q[a] @ q[b] - matching.t)) for b in range(real) if b != a}
            expected = sum(value * (matching.V @ x[b] + matching.m) for b, value in alike.items())
            torch.testing.assert_close(found[row, a], expected / (1 + sum(alike.values())), atol=1e-5, rtol=1e-4)


def test_only_other_occurrences_give_much_at_first(embeddings, matching) -> None:
    torch.nn.init.zeros_(matching.V)
    torch.nn.init.ones_(matching.m)  # then what a token is given is how sure it is that another is like it
    sure = matching(WholeStates(embeddings), REAL, WholeStates(embeddings))[..., 0]
    assert (sure[0, [1, 4]] > 0.95).all()
    assert sure[0, [0, 2, 3, 5]].max() < 0.3
    assert sure[1, :4].max() < 0.3, "padding is like the first token, and is not looked at"


def test_a_network_sees_no_difference_between_rows_alone_and_padded(embeddings) -> None:
    stack = build(standardize=False).stacks["encoder"]
    values = torch.cat([embeddings, torch.randn(2, 2, 6, WIDTH, generator=torch.Generator().manual_seed(1))])
    attention = torch.zeros(2, 2, 6, 6)
    attention[:, 1, :4, :4] = 0.25
    padded = stack(StackBatch("encoder", values, attention, None, REAL, (1, 2), raw=True))[-1]
    alone = StackBatch("encoder", values[:, 1:, :4], attention[:, 1:, :4, :4], None, REAL[1:, :4], (1, 2), raw=True)
    torch.testing.assert_close(padded[1:, :4], stack(alone)[-1], atol=1e-6, rtol=1e-5)


def test_dropout_does_not_hide_that_tokens_are_alike(embeddings) -> None:
    """Two occurrences lose different channels, but look for each other before that."""
    network = build(dropout=0.5, standardize=False).stacks["encoder"]
    torch.nn.init.zeros_(network.matching.V)
    torch.nn.init.zeros_(network.W_0)
    torch.nn.init.ones_(network.matching.m)
    seen: list[torch.Tensor] = []
    network.matching.register_forward_hook(lambda module, given, out: seen.append(out[..., 0]))
    values = embeddings.repeat(3, 1, 1, 1)
    stack = StackBatch("encoder", values, torch.full((2, 2, 6, 6), 1 / 6), None, REAL, (1, 2), raw=True)
    for generator in (None, torch.Generator().manual_seed(0)):
        network(stack, generator=generator)
    assert torch.equal(*seen)


def test_a_causal_stack_has_no_weights_for_it() -> None:
    """Its tokens are the target's."""
    plain, found = (build(t5_shape(), matching=width) for width in (0, 16))
    assert plain.stacks["encoder"].matching is None
    assert found.stacks["decoder"].matching is None
    added = {name for name, _ in found.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert added == {f"stacks.encoder.matching.{name}" for name in ("P", "V", "m", "g", "t")}
    assert sum(p.numel() for p in found.stacks["encoder"].matching.parameters()) == 16 * 20 + 7 * 20 + 7 + 2


def test_the_first_state_is_of_the_embeddings_times_their_gain() -> None:
    stack = random_batch(t5_shape()).stacks["decoder"]
    network = build(t5_shape(), hidden=6, embedding_gain=4.0, matching=0)
    phi = WholeStates(stack.values)
    found = network.stacks["decoder"].first_state(phi, phi, stack.real)
    torch.testing.assert_close(found, torch.tanh(4 * stack.values[0] @ network.stacks["decoder"].W_0.T))


def test_the_gain_multiplies_what_matching_adds_too(embeddings) -> None:
    network = build(embedding_gain=3.0).stacks["encoder"]
    phi = WholeStates(embeddings)
    expected = torch.tanh(3 * (embeddings[0] @ network.W_0.T + network.matching(phi, REAL, phi)))
    torch.testing.assert_close(network.first_state(phi, phi, REAL), expected)


def test_residual_weighs_the_backbones_final_state() -> None:
    batch = random_batch(t5_shape())
    whole, half, none = (build(t5_shape(), residual=by) for by in (1.0, 0.5, 0.0))
    for network in (whole, half, none):
        torch.nn.init.constant_(network.U, 0.1)
    torch.testing.assert_close(whole(batch) - half(batch), batch.final / 2)
    other = dataclasses.replace(batch, final=batch.final + 1, subsets={})
    assert torch.equal(none(batch), none(other))


@pytest.mark.parametrize(
    "values",
    [
        {"residual": 1.5},
        {"embedding_gain": 0.0},
        {"embedding_gain": float("inf")},
        {"embedding_gain": 4.0, "initial_state": "zero", "matching": 0},
        {"matching": -1},
        {"matching": 8, "initial_state": "zero"},
    ],
    ids=str,
)
def test_contradictions_are_refused(values) -> None:
    with pytest.raises(UserError) as told:
        ReadMatchingConfig(**values)
    assert any(name in str(told.value) for name in values)
