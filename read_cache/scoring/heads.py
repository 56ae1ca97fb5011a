"""From corrected states to losses and predictions: the frozen LM head over a label trie, or a trainable head.

Shape letters: B example, T position of the stack that the head reads, D width, C candidate token, K label.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.loader.batch import Targets, join_texts
from read_cache.networks.inputs import dropout
from read_cache.settings import Settings
from read_cache.tasks import Task
from read_cache.trie import LabelTrie


class HeadSettings(Settings):
    """Settings of a trainable head. The frozen LM head has none."""

    kind: str = "auto"
    """trie (frozen LM head over the label trie), trainable (a tanh layer), or a name in `scoring.choose.HEADS`.

    auto takes trie where the backbone has an LM head, otherwise trainable.
    """
    pooling: Literal["mean", "first", "apart"] = "mean"
    """Pooling of positions: mean, first (the first position; on a decoder-only model the last token of the prompt) or
    apart (for pairs of texts a, b: [a, b, |a - b|, a * b]).
    """
    attentive: bool = False
    """Weigh the positions of each text by a learned softmax (attentive pooling); the weights start equal."""
    width: int = Field(0, ge=0)
    """Width of the tanh layer before the output; 0 takes the width of the hidden states."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate before the tanh layer and before the output, in training."""
    learning_rate: float | None = Field(None, gt=0, lt=1)
    """Peak learning rate of the head's weights; the default is the network's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.attentive and self.pooling == "first":
            raise UserError(
                "head.attentive weighs several positions, and head.pooling is first: set it to mean or apart"
            )
        return self


@dataclasses.dataclass(frozen=True)
class Scores:
    """Predictions for a batch, [B] each."""

    predicted: Tensor
    """Label id, score, or share of right tokens, which the metric compares with the gold value; float32."""
    loss: Tensor
    """Sum of each example's losses, in `Head.loss_unit`."""
    weight: Tensor
    """Number of losses in each sum: 1, or the number of tokens of an open target."""
    probabilities: Tensor | None
    """[B, K] for classes; None for scores and open targets."""


class Head(nn.Module, abc.ABC):
    """Computes a loss and predictions from y, [B, T, D] float32."""

    loss_unit: str = "nats"
    stack: str = ""
    """The stack that y belongs to."""
    pooling: str = ""
    """How a trainable head pools the states; empty for a language model's head."""

    def loss(self, y_BTD: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean loss of a batch, a scalar in `loss_unit`. `generator` draws the dropout."""
        scores = self.scores(y_BTD, targets, generator)
        return scores.loss.sum() / scores.weight.sum()

    @abc.abstractmethod
    def scores(self, y_BTD: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Scores:
        """Return predictions and losses of a batch."""


Rows = Tensor | Callable[[], Tensor | tuple[Tensor, Tensor]]
"""Rows of an output head, [C, D]. For a head that trains: a function that returns them, alone or with biases, [C]."""


class LanguageModelHead(Head):
    """The backbone's own output head over some candidate tokens."""

    def __init__(self, rows: Rows) -> None:
        """`rows` [C, D] float32: the head's rows times the scale of its input, or a function that returns them."""
        super().__init__()
        self.rows = rows

    def logits(self, y_BTD: Tensor, targets: Targets) -> Tensor:
        """Return [B, T, C], T the readout positions."""
        rows = self.rows() if callable(self.rows) else self.rows
        weight, bias = rows if isinstance(rows, tuple) else (rows, None)
        return F.linear(targets.at_readout(y_BTD), weight.to(y_BTD.dtype), bias)


class TrieHead(LanguageModelHead):
    """Exact constrained decoding over a label trie: log-softmax over the tokens that may follow each node."""

    def __init__(self, rows: Rows, trie: LabelTrie, task: Task, device: str = "cpu") -> None:
        super().__init__(rows)
        # The extra last row allows every token: padding has node -1, and a softmax over nothing would be NaN.
        everything = np.ones((1, len(trie.tokens)), dtype=bool)
        self.allowed = torch.from_numpy(np.concatenate([trie.allowed, everything])).to(device)
        paths = torch.zeros(len(trie.paths), *trie.allowed.shape)
        for label, path in enumerate(trie.paths):
            for node, token in path:
                paths[label, node, token] = 1
        self.paths_KTC = paths.to(device)
        values = [float(label if task.scores else index) for index, label in enumerate(task.labels)]
        self.label_values = torch.tensor(values, device=device)

    def log_probabilities(self, y_BTD: Tensor, targets: Targets) -> Tensor:
        """Return [B, T, C]: log-probabilities of the tokens that may follow each node; -inf for the others."""
        assert targets.node_trie is not None
        logits = self.logits(y_BTD, targets).masked_fill(~self.allowed[targets.node_trie], float("-inf"))
        return logits.log_softmax(dim=-1)

    def loss(self, y_BTD: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean negative log-likelihood of the gold path; training batches hold that path alone."""
        return -gold_path(self.log_probabilities(y_BTD, targets), targets).sum() / len(y_BTD)

    def scores(self, y_BTD: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Scores:
        """Return predictions of a batch that holds every node of the trie, in its order."""
        logp = self.log_probabilities(y_BTD, targets)
        loss = -gold_path(logp, targets).sum(dim=1)
        # 0 * -inf would be NaN, so the log-probability of a token that may not follow is replaced by 0.
        label_logp = torch.einsum("btc,ktc->bk", logp.masked_fill(logp == float("-inf"), 0), self.paths_KTC)
        probabilities = label_logp.exp()
        return Scores(self.predicted(probabilities), loss, torch.ones_like(loss), probabilities)

    def predicted(self, probabilities_BK: Tensor) -> Tensor:
        """Return the value of the most probable label, [B]."""
        return self.label_values[probabilities_BK.argmax(-1)]


class OpenHead(LanguageModelHead):
    """Teacher-forced scoring of an open target over the whole vocabulary."""

    loss_unit = "nats a token"

    def scores(self, y_BTD: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Scores:
        """Return the share of tokens that are right, and the loss summed over the target's tokens."""
        assert targets.node_target is not None
        logp, real = self.logits(y_BTD, targets).log_softmax(dim=-1), targets.node_target >= 0
        right = ((logp.argmax(-1) == targets.node_target) & real).sum(1)
        count = real.sum(1).to(y_BTD.dtype)
        return Scores(right / count, -gold_path(logp, targets).sum(dim=1), count, None)


def gold_path(logp_BTC: Tensor, targets: Targets) -> Tensor:
    """Return the log-probability of the gold token at each position, [B, T]; 0 off the gold path."""
    target = targets.node_target
    assert target is not None
    return logp_BTC.gather(-1, target.clamp(min=0)[..., None])[..., 0].masked_fill(target < 0, 0)


class PooledHead(Head):
    """A trainable head over pooled states: dropout, tanh layer, dropout, output.

    Attentive (not in the papers): a text's vector is the sum of softmax_t(q y_t) y_t over its positions; q = 0 first.
    """

    def __init__(self, settings: HeadSettings, width: int, outputs: int) -> None:
        super().__init__()
        self.settings, self.pooling = settings, settings.pooling
        hidden, inputs = settings.width or width, width * (4 if settings.pooling == "apart" else 1)
        self.dense, self.out = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        nn.init.zeros_(self.dense.bias)
        nn.init.zeros_(self.out.bias)
        nn.init.normal_(self.dense.weight, std=inputs**-0.5)
        nn.init.normal_(self.out.weight, std=0.02)
        self.query = nn.Parameter(torch.zeros(width)) if settings.attentive else None

    def outputs(self, y_BTD: Tensor, targets: Targets, generator: torch.Generator | None) -> Tensor:
        """Return [B, outputs]."""
        pooled = dropout(self.pool(y_BTD, targets), self.settings.dropout, generator)
        return self.out(dropout(torch.tanh(self.dense(pooled)), self.settings.dropout, generator))

    def pool(self, y_BTD: Tensor, targets: Targets) -> Tensor:
        """Return pooled states, [B, D] or [B, 4 D]."""
        if self.pooling == "first":
            return targets.at_readout(y_BTD)[:, 0]
        weights_BPT = targets.positions[self.stack].weights(self.pooling).to(y_BTD.dtype)
        if self.query is not None:
            mask_BPT, score_BT = weights_BPT > 0, y_BTD @ self.query
            masked_BPT = score_BT[:, None].masked_fill(~mask_BPT, torch.finfo(score_BT.dtype).min)
            weights_BPT = masked_BPT.softmax(-1) * mask_BPT  # a text may have no token
        return join_texts(weights_BPT @ y_BTD)[:, 0]


class ClassifierHead(PooledHead):
    """A trainable classifier."""

    def scores(self, y_BTD: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Scores:
        """Return the most probable label of each example, and its negative log-likelihood."""
        logp = self.outputs(y_BTD, targets, generator).log_softmax(-1)
        loss = -logp.gather(-1, targets.label[:, None])[:, 0]
        return Scores(self.predicted(logp), loss, torch.ones_like(loss), logp.exp())

    def predicted(self, probabilities_BK: Tensor) -> Tensor:
        """Return the most probable label, [B] float."""
        return probabilities_BK.argmax(-1).to(probabilities_BK.dtype)


class RegressorHead(PooledHead):
    """A trainable regression of scores, scaled to 0 … 1."""

    loss_unit = "squared error"

    def __init__(self, settings: HeadSettings, width: int, low: float, high: float) -> None:
        super().__init__(settings, width, 1)
        self.low, self.high = low, high

    def scores(self, y_BTD: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Scores:
        """Return the predicted score of each example, within the task's range, and its squared error."""
        value = self.outputs(y_BTD, targets, generator)[:, 0] + 0.5
        loss = (value - (targets.score - self.low) / (self.high - self.low)).square()
        predicted = (self.low + value * (self.high - self.low)).clamp(self.low, self.high)
        return Scores(predicted, loss, torch.ones_like(loss), None)


class EnsembleHead(Head):
    """The heads of an ensemble's members. It averages their probabilities, or their scores for a regression."""

    def __init__(self, members: Sequence[Head]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.stack, self.pooling, self.loss_unit = members[0].stack, members[0].pooling, members[0].loss_unit

    def scores(self, y_BTD: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Scores:
        """Return predictions of a batch. y is the concatenation of the members' y; the loss is that of the averages."""
        heads: list[Any] = list(self.members)
        scores = [head.scores(y, targets) for head, y in zip(heads, y_BTD.chunk(len(heads), -1), strict=True)]
        shares = [one.probabilities for one in scores if one.probabilities is not None]
        if shares:
            mean_BK = torch.stack(shares).mean(0)
            loss = -mean_BK.gather(-1, targets.label[:, None])[:, 0].log()
            return Scores(heads[0].predicted(mean_BK), loss, torch.ones_like(loss), mean_BK)
        predicted = torch.stack([one.predicted for one in scores]).mean(0)
        loss = ((predicted - targets.score) / (heads[0].high - heads[0].low)).square()
        return Scores(predicted, loss, torch.ones_like(loss), None)
