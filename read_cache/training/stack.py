"""Networks of the same shape that step together: one product for all in place of one each."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from read_cache.training.learner import Learner
from read_cache.training.memory import is_out_of_memory

LARGEST = 16
"""Networks in a stack. A network saves activations of its own for the backward pass: a GRU of width 256 on T5-base
0.5 GB at 32 examples of 128 tokens. A stack that does not fit into memory is halved."""


class Stack:
    """Learners whose weights are slices of common tensors [K, ...]. Each keeps its own optimiser and learning rate.

    The result differs from that of learners alone by the rounding of sums.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = list(learners)
        self.halves: list[Stack | Learner] = []
        """Two smaller stacks that step in place of this one, after it was too large for memory."""
        self.weights: dict[str, Tensor] = {}
        for name in self.learners[0].parameters:
            stacked = torch.stack([learner.parameters[name].data for learner in self.learners]).requires_grad_()
            for k, learner in enumerate(self.learners):
                learner.parameters[name].data = stacked.data[k]
            self.weights[name] = stacked

    @property
    def stop(self) -> bool:
        """True if no network trains any more."""
        return all(learner.stop for learner in self.learners)

    def train_step(self, batch: Any) -> None:
        """Take one step of every network that has not stopped, on one batch."""
        if not self.halves:
            try:
                losses_K = self.losses(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.halve()
        if self.halves:
            for half in self.halves:
                if not half.stop:
                    half.train_step(batch)
            return
        for k, learner in enumerate(self.learners):
            if learner.stop:
                continue
            for name, parameter in learner.parameters.items():
                gradient = self.weights[name].grad
                assert gradient is not None
                parameter.grad = gradient[k]
            learner.update(losses_K[k], len(batch.targets))
        for weight in self.weights.values():
            weight.grad = None

    def losses(self, batch: Any) -> Tensor:
        """Return each network's loss, [K], and leave the gradients in the weights."""
        model = self.learners[0].model
        losses_K = torch.vmap(lambda weights: functional_call(model, weights, (batch,)))(self.weights)
        losses_K.sum().backward()
        return losses_K.detach()

    def halve(self) -> None:
        """Make two stacks of this one and free its memory. No network has stepped on the batch yet."""
        middle = len(self.learners) // 2
        groups = self.learners[:middle], self.learners[middle:]
        self.weights.clear()
        self.halves = [Stack(group) if len(group) > 1 else group[0] for group in groups]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def steppers(learners: Sequence[Learner], stacked: bool, largest: int = LARGEST) -> Iterator[Learner | Stack]:
    """Yield what takes the steps of the learners that have not stopped: stacks of up to `largest`, or single learners.

    Dropout draws from each network's own random state, so such a network steps alone.
    """
    groups: dict[object, list[Learner]] = {}
    for learner in learners:
        if learner.stop:
            continue
        if stacked and not learner.has_dropout:
            groups.setdefault((learner.config.kind, learner.config.settings, learner.config.head), []).append(learner)
        else:
            yield learner
    for group in groups.values():
        for start in range(0, len(group), largest):
            chunk = group[start : start + largest]
            yield Stack(chunk) if len(chunk) > 1 else chunk[0]


def is_stacked(stack: str, device: str) -> bool:
    """Return True if like networks are stacked: with `auto` on an accelerator, which small products leave idle."""
    return stack == "on" or (stack == "auto" and not device.startswith("cpu"))
