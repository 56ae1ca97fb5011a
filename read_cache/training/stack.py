"""Networks of the same shape that step together: one product for all in place of one each."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from read_cache.device import free_device_bytes, is_out_of_memory
from read_cache.training.learner import Learner
from read_cache.training.step_cost import kept_bytes


class Stack:
    """Learners whose weights are slices of common tensors [K, ...]. Each keeps its own optimiser and learning rate.

    The result differs from that of learners alone by the rounding of sums. A stack that is too large for the memory
    divides itself: on its first batch by the bytes of one network, later whenever an allocation fails.
    """

    def __init__(self, learners: Sequence[Learner], measured: bool = False) -> None:
        """`measured`: the stack is known to fit, and does not measure a network on its first batch."""
        self.learners, self.measured = list(learners), measured
        self.parts: list[Stack | Learner] = []
        """Smaller stacks that step in place of this one."""
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
        if not self.measured:
            self.measured, fitting = True, networks_that_fit(self.learners[0], batch)
            if fitting < len(self.learners):
                self.divide(fitting)
        if not self.parts:
            try:
                losses_K = self.losses(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.divide(len(self.learners) // 2)  # no network has stepped on this batch yet
        if self.parts:
            for part in self.parts:
                if not part.stop:
                    part.train_step(batch)
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

    def divide(self, size: int) -> None:
        """Replace this stack by stacks of up to `size` networks, and free its memory."""
        self.weights.clear()
        self.parts = list(in_stacks(self.learners, size))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def steppers(learners: Sequence[Learner], stacked: bool) -> Iterator[Learner | Stack]:
    """Yield what takes the steps of the learners that have not stopped: stacks of networks of one shape, or learners.

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
        yield Stack(group) if len(group) > 1 else group[0]


def in_stacks(learners: Sequence[Learner], size: int) -> Iterator[Learner | Stack]:
    """Yield stacks of up to `size` learners; a learner that is left alone as it is."""
    for start in range(0, len(learners), size):
        group = learners[start : start + size]
        yield Stack(group, measured=True) if len(group) > 1 else group[0]


def networks_that_fit(learner: Learner, batch: Any) -> int:
    """Return how many networks like this one can step together in the free memory of their device, at least one.

    A network takes the activations that it saves for the backward pass of `batch`, its gradients, and the two states
    of AdamW. A processor's memory has no limit here.
    """
    free = free_device_bytes(next(iter(learner.parameters.values())).device)
    if not free:
        return sys.maxsize
    network_bytes = kept_bytes(learner.model, batch) + 3 * sum(weight.nbytes for weight in learner.parameters.values())
    return max(1, int(free // network_bytes))
