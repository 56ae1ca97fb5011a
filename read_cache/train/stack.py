"""Networks of one shape stepping together: one product for all of them in place of one each."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from read_cache.loader.batch import Batch
from read_cache.networks.config import ReadConfig
from read_cache.scoring.heads import Head
from read_cache.train.learner import Learner

Stacking = Literal["auto", "on", "off"]


class Stack:
    """Learners whose weights are slices of common tensors [K, …]; each keeps its own optimiser and rates.

    They become what each would have been alone but for the rounding of sums.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = learners
        parameters = [dict(learner.network.named_parameters()) for learner in learners]
        self.weights: dict[str, Tensor] = {
            name: torch.stack([own[name].data for own in parameters]).requires_grad_() for name in parameters[0]
        }
        for k, own in enumerate(parameters):
            for name, parameter in own.items():
                parameter.data = self.weights[name].data[k]

    @property
    def stopped(self) -> bool:
        """Whether no network trains any more."""
        return all(learner.stopped for learner in self.learners)

    def train_step(self, batch: Batch, head: Head) -> None:
        """One step of every network that has not stopped, on one batch."""
        first = self.learners[0]

        def loss(weights: dict[str, Tensor]) -> Tensor:
            with first.autocast(batch):
                y = functional_call(first.network, weights, (batch,))
            return head.loss(y.float(), batch)

        losses_K = torch.vmap(loss)(self.weights)
        losses_K.sum().backward()
        for k, (learner, value) in enumerate(zip(self.learners, losses_K.tolist(), strict=True)):
            if learner.stopped:
                continue
            for name, parameter in learner.network.named_parameters():
                gradient = self.weights[name].grad
                assert gradient is not None
                parameter.grad = gradient[k]
            learner.update(value, len(batch.final))
        for weight in self.weights.values():
            weight.grad = None


def steppers(learners: Sequence[Learner], stacked: bool) -> list[Learner | Stack]:
    """What takes the steps of the learners that have not stopped: stacks of like networks, or each alone.

    Dropout draws from each network's own random state, so such a network steps alone.
    """
    groups: dict[ReadConfig, list[Learner]] = {}
    found: list[Learner | Stack] = []
    for learner in learners:
        if learner.stopped:
            continue
        if stacked and not learner.config.read.dropout:
            groups.setdefault(learner.config.read, []).append(learner)
        else:
            found.append(learner)
    return found + [Stack(group) if len(group) > 1 else group[0] for group in groups.values()]


def is_stacked(stacking: Stacking, device: str) -> bool:
    """Whether like networks are stacked: with `auto` beside an accelerator, where small products leave it idle."""
    return stacking == "on" or (stacking == "auto" and not device.startswith("cpu"))
