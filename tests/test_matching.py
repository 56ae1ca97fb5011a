"""What tokens that are alike give each other's first state, against its equations."""

import pytest
import torch
from torch.nn.functional import normalize

from read_cache.loader.batch import StackBatch
from read_cache.networks.config import BackboneShape, ReadConfig
from read_cache.networks.inputs import WholeStates
from read_cache.networks.matching import Matching
from read_cache.networks.read import build_network

SHAPE = BackboneShape(width=20, encoder_layers=(1, 2), decoder_layers=(1,), heads=2)
REAL = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


@pytest.fixture
def embeddings() -> torch.Tensor:
    """[1, 2, 6, 20]: the first row's tokens 1 and 4 are the same; the second row's last two, padding, are its first."""
    values = torch.randn(1, 2, 6, 20, generator=torch.Generator().manual_seed(0))
    values[0, 0, 4] = values[0, 0, 1]
    values[0, 1, 4:] = values[0, 1, 0]
    return values


@pytest.fixture
def matching() -> Matching:
    """As a network has it."""
    found = build_network(ReadConfig(hidden=7, matching=16), SHAPE, 0).encoder.matching
    assert isinstance(found, Matching)
    return found


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
    network = build_network(ReadConfig(hidden=7, matching=16, standardize=False), SHAPE, 0)
    values = torch.cat([embeddings, torch.randn(2, 2, 6, 20, generator=torch.Generator().manual_seed(1))])
    attention = torch.zeros(2, 2, 6, 6)
    attention[:, 1, :4, :4] = 0.25
    padded = network.encode(StackBatch(values, attention, REAL, (1, 2), raw=True))
    alone = StackBatch(values[:, 1:, :4], attention[:, 1:, :4, :4], REAL[1:, :4], (1, 2), raw=True)
    torch.testing.assert_close(padded[1:, :4], network.encode(alone), atol=1e-6, rtol=1e-5)


def test_dropout_does_not_hide_that_tokens_are_alike(embeddings) -> None:
    """Two occurrences lose different channels, but look for each other before that."""
    network = build_network(ReadConfig(hidden=7, matching=16, dropout=0.5, standardize=False), SHAPE, 0)
    torch.nn.init.zeros_(network.encoder.matching.V)
    torch.nn.init.zeros_(network.encoder.W_0)
    torch.nn.init.ones_(network.encoder.matching.m)
    seen: list[torch.Tensor] = []
    network.encoder.matching.register_forward_hook(lambda module, given, out: seen.append(out[..., 0]))
    stack = StackBatch(embeddings.repeat(3, 1, 1, 1), torch.full((2, 2, 6, 6), 1 / 6), REAL, (1, 2), raw=True)
    for generator in (None, torch.Generator().manual_seed(0)):
        network.encode(stack, generator)
    assert torch.equal(*seen)


def test_the_encoder_alone_has_weights_for_it() -> None:
    plain, found = (build_network(ReadConfig(hidden=7, matching=width), SHAPE, 0) for width in (0, 16))
    assert plain.encoder.matching is None
    assert found.decoder.matching is None
    added = {name for name, _ in found.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert added == {f"encoder.matching.{name}" for name in ("P", "V", "m", "g", "t")}
    assert sum(p.numel() for p in found.encoder.matching.parameters()) == 16 * 20 + 7 * 20 + 7 + 2
