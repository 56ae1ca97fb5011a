"""Trainable heads over pooled states: a classifier and a regressor."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from read_cache.errors import UserError
from read_cache.loader.batch import Positions, Targets
from read_cache.scoring.heads import ClassifierHead, Head, HeadSettings, RegressorHead

WIDTH = 12
PAIRS = Targets(
    rows=np.arange(3),
    label=torch.tensor([1, 0, 3]),
    score=torch.tensor([2.5, 7.5, 0.3]),
    node_trie=None,
    node_target=None,
    positions={
        "encoder": Positions(
            torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]], dtype=torch.bool),
            torch.tensor([[-1, 0, 0, -1, 1, -1], [-1, 0, -1, 1, 1, -1], [-1, 0, -1, -1, -1, -1]]),
        )
    },
)
"""Two texts a row in six positions; the last row's second text is empty."""


def slow_pool(pooling: str, y: Tensor, targets: Targets, query: Tensor | None = None) -> Tensor:
    """Pooled states, position by position; with a query, weighed by a softmax over each text."""
    positions, pooled = targets.positions["encoder"], []
    for b, example in enumerate(y):
        if pooling == "first":
            pooled.append(example[0])
            continue
        groups = {"mean": [positions.real[b]], "apart": [positions.segment[b] == text for text in (0, 1)]}[pooling]
        means = []
        for group in groups:
            chosen = [state for state, inside in zip(example, group.tolist(), strict=True) if inside]
            scores = [0.0 if query is None else float((state @ query).detach()) for state in chosen]
            shares = torch.tensor(scores).softmax(0).tolist()
            weighed = [share * state for share, state in zip(shares, chosen, strict=True)]
            means.append(sum(weighed) if chosen else torch.zeros(y.shape[-1]))
        if pooling == "mean":
            pooled.append(means[0])
        else:
            a, other = means
            pooled.append(torch.cat([a, other, (a - other).abs(), a * other]))
    return torch.stack(pooled)


def make(kind: str, **settings: object) -> Head:
    """A classifier of four labels or a regressor from 0 to 7.5, of the encoder."""
    torch.manual_seed(0)
    given = HeadSettings(**settings)
    head = ClassifierHead(given, WIDTH, 4) if kind == "classifier" else RegressorHead(given, WIDTH, 0.0, 7.5)
    head.stack = "encoder"
    torch.nn.init.normal_(head.out.weight)
    torch.nn.init.normal_(head.out.bias)
    torch.nn.init.normal_(head.dense.bias)
    if head.query is not None:
        torch.nn.init.normal_(head.query)
    return head


def slow_outputs(head: Head, pooling: str, y: Tensor) -> Tensor:
    """The head's outputs, layer by layer, without dropout."""
    pooled = slow_pool(pooling, y, PAIRS)
    return torch.tanh(pooled @ head.dense.weight.T + head.dense.bias) @ head.out.weight.T + head.out.bias


@pytest.mark.parametrize("pooling", ["mean", "apart"])
def test_scores_of_padding_and_of_the_other_text_do_not_matter_however_large(pooling) -> None:
    head, y = make("classifier", pooling=pooling, attentive=True), torch.randn(3, 6, WIDTH)
    assert head.query is not None
    y[1, 5] = 200 * head.query  # padding
    y[0, 4] = 200 * head.query  # the second text
    torch.testing.assert_close(head.pool(y, PAIRS), slow_pool(pooling, y, PAIRS, head.query))


@pytest.mark.parametrize("pooling", ["mean", "first", "apart"])
@pytest.mark.parametrize("width", [0, 5])
def test_a_classifier_is_its_layers_over_pooled_states(pooling, width) -> None:
    head, y = make("classifier", pooling=pooling, width=width), torch.randn(3, 6, WIDTH)
    assert head.dense.weight.shape == (width or WIDTH, WIDTH * (4 if pooling == "apart" else 1))
    logits, scores = slow_outputs(head, pooling, y), head.scores(y, PAIRS)
    torch.testing.assert_close(head.pool(y, PAIRS), slow_pool(pooling, y, PAIRS))
    torch.testing.assert_close(scores.probabilities, logits.softmax(-1))
    assert scores.predicted.tolist() == logits.argmax(-1).tolist()
    expected = F.cross_entropy(logits, PAIRS.label, reduction="none")
    torch.testing.assert_close(scores.loss, expected)
    torch.testing.assert_close(head.loss(y, PAIRS), expected.mean())


@pytest.mark.parametrize("pooling", ["mean", "apart"])
def test_attentive_pooling_weighs_the_positions_of_each_text(pooling) -> None:
    """A query of zero, the first one, gives the mean."""
    head, y = make("classifier", pooling=pooling, attentive=True), torch.randn(3, 6, WIDTH)
    torch.testing.assert_close(head.pool(y, PAIRS), slow_pool(pooling, y, PAIRS, head.query))
    torch.nn.init.zeros_(head.query)
    torch.testing.assert_close(head.pool(y, PAIRS), slow_pool(pooling, y, PAIRS))


def test_attentive_pooling_needs_several_positions() -> None:
    with pytest.raises(UserError, match="first"):
        HeadSettings(attentive=True, pooling="first")


@pytest.mark.parametrize("pooling", ["mean", "first", "apart"])
def test_a_regressor_predicts_numbers_within_the_tasks_range(pooling) -> None:
    head, y = make("regressor", pooling=pooling), torch.randn(3, 6, WIDTH)
    value, scores = slow_outputs(head, pooling, y)[:, 0] + 0.5, head.scores(y, PAIRS)
    torch.testing.assert_close(scores.predicted, (value * 7.5).clamp(0, 7.5))
    torch.testing.assert_close(scores.loss, (value - PAIRS.score / 7.5).square())
    torch.testing.assert_close(head.loss(y, PAIRS), scores.loss.mean())
    assert scores.probabilities is None
    far = head.scores(y * 1000, PAIRS).predicted.detach()
    assert float(far.min()) >= 0
    assert float(far.max()) <= 7.5


def test_an_untrained_regressor_predicts_the_middle() -> None:
    head = RegressorHead(HeadSettings(), WIDTH, 1.0, 5.0)
    head.stack = "encoder"
    torch.nn.init.zeros_(head.out.weight)
    assert head.scores(torch.randn(3, 6, WIDTH), PAIRS).predicted.tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
@pytest.mark.parametrize(
    ("pooling", "attentive"), [("mean", False), ("first", False), ("apart", False), ("mean", True), ("apart", True)]
)
def test_gradients_are_those_of_small_steps(kind, pooling, attentive) -> None:
    """Of the head's weights and of y, which is what reaches a side network; nothing reaches padding."""
    head = make(kind, pooling=pooling, width=3, attentive=attentive).double()
    y = torch.randn(3, 6, WIDTH, dtype=torch.float64)
    y.requires_grad_()

    def loss(y: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip(dict(head.named_parameters()), weights, strict=True))
        return torch.func.functional_call(Loss(head), {f"head.{name}": w for name, w in named.items()}, (y,))

    assert torch.autograd.gradcheck(loss, (y, *head.parameters()), atol=1e-6)
    head.loss(y, PAIRS).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in head.parameters())
    assert not y.grad[~PAIRS.positions["encoder"].real].any()
    if pooling == "apart":
        assert not y.grad[PAIRS.positions["encoder"].segment < 0].any()


class Loss(nn.Module):
    """A head's loss as a module."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, y: Tensor) -> Tensor:
        return self.head.loss(y, PAIRS)


def test_dropout_repeats_and_is_none_outside_training() -> None:
    head, y = make("classifier", dropout=0.5), torch.randn(3, 6, WIDTH)
    state = torch.get_rng_state()
    first, again, other = (head.loss(y, PAIRS, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(head.loss(y, PAIRS), head.loss(y, PAIRS))
    assert not torch.equal(head.loss(y, PAIRS), first)
    assert torch.equal(state, torch.get_rng_state())
    without = make("classifier", dropout=0.0)
    assert torch.equal(without.loss(y, PAIRS, torch.Generator().manual_seed(1)), without.loss(y, PAIRS))
