"""Networks of the same shape that step together, with one product for all. Not to be confused with a backbone's stack.

The documentation calls them a bundle.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from read_cache.device import free_device_bytes, is_out_of_memory
from read_cache.training.compiled import Loss, Wrap, plain
from read_cache.training.learner import Candidate, Learner, average_weights
from read_cache.training.step_cost import kept_bytes, step_bytes

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of AdamW's states in torch."""


class Stack:
    """Learners whose weights, and states of AdamW, are slices of common tensors [K, ...]. Each has its learning rate.

    Clipping and AdamW are a few operations a weight, however many networks there are.

    The result differs from that of learners alone by the rounding of sums. A stack that is too large for the memory
    divides itself: on its first batch by the bytes of one network, later whenever an allocation fails.
    """

    def __init__(self, learners: Sequence[Learner], wrap: Wrap = plain, measured: bool = False) -> None:
        """`measured`: the stack is known to fit, and does not measure a network on its first batch."""
        self.learners, self.wrap, self.measured = list(learners), wrap, measured
        self.loss = wrap(stacked_loss(self.learners[0].model))
        self.parts: list[Stack | Learner] = []
        """Smaller stacks that step in place of this one."""
        self.weights: dict[str, Tensor] = {}
        self.moments: dict[str, list[Tensor]] = {}
        """By weight: AdamW's means of gradients and of their squares, [K, ...] each."""
        self.peaks: dict[str, Tensor] = {}
        """By weight: peak learning rates, [K, 1, ...]."""
        for name, like in self.learners[0].parameters.items():
            owned = [learner.parameters[name] for learner in self.learners]
            stacked = torch.stack([weight.data for weight in owned])
            states = [learner.optimizer.state[weight] for learner, weight in zip(self.learners, owned, strict=True)]
            moments = [torch.stack([state.get(key, torch.zeros_like(like)) for state in states]) for key in MOMENTS]
            for k, (weight, state) in enumerate(zip(owned, states, strict=True)):
                weight.data = stacked[k]
                state.setdefault("step", torch.zeros((), device=like.device))
                state |= {key: moment[k] for key, moment in zip(MOMENTS, moments, strict=True)}
            self.weights[name], self.moments[name] = stacked.requires_grad_(), moments
            peaks = [learner.peak(weight) for learner, weight in zip(self.learners, owned, strict=True)]
            self.peaks[name] = torch.tensor(peaks, device=like.device).view(-1, *(1 for _ in like.shape))

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
        self.update()
        for k, learner in enumerate(self.learners):
            if not learner.stop:
                learner.count_step(losses_K[k], len(batch.targets))

    def losses(self, batch: Any) -> Tensor:
        """Return each network's loss, [K], and leave the gradients in the weights."""
        losses_K = self.loss(self.weights, batch)
        losses_K.sum().backward()
        return losses_K.detach()

    @torch.no_grad()
    def update(self) -> None:
        """Clip the gradients of each network, and take a step of AdamW, as `Learner.update` does.

        A network that diverged earlier in this epoch steps on; its best weights are kept apart.
        """
        first = next(learner for learner in self.learners if not learner.stop)
        settings, factor = first.optimizer.param_groups[0], first.rate_factor(first.step)
        (beta1, beta2), count = settings["betas"], first.step + 1
        torch._foreach_add_([state["step"] for one in self.learners for state in one.optimizer.state.values()], 1)
        gradients = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        norms_K = torch.stack([g.reshape(len(g), -1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        clip_K = (first.run.clip / (norms_K + 1e-6)).clamp(max=1)
        for name, gradient in gradients.items():
            weight, (mean, square), rate = self.weights[name], self.moments[name], self.peaks[name] * factor
            gradient *= clip_K.view(rate.shape)
            weight *= 1 - rate * settings["weight_decay"]
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            divisor = (square / (1 - beta2**count)).sqrt_().add_(settings["eps"])
            weight -= rate / (1 - beta1**count) * mean / divisor
            weight.grad = None
        average_weights(self.learners)

    def divide(self, size: int) -> None:
        """Replace this stack by stacks of up to `size` networks, and free its memory."""
        for tensors in (self.weights, self.moments, self.peaks):
            tensors.clear()
        groups = [self.learners[start : start + size] for start in range(0, len(self.learners), size)]
        self.parts = [Stack(group, self.wrap, measured=True) if len(group) > 1 else group[0] for group in groups]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def stacked_loss(model: Candidate) -> Loss:
    """Return a function of the weights of K networks like this one, [K, ...] each, and a batch: their losses, [K]."""
    return lambda weights, batch: torch.vmap(lambda own: functional_call(model, own, (batch,)))(weights)


def steppers(learners: Sequence[Learner], stacked: bool, wrap: Wrap = plain) -> Iterator[Learner | Stack]:
    """Yield what takes the steps of the learners that have not stopped: stacks of networks of one shape, or learners.

    Dropout draws from each network's own random state, so such a network steps alone and as it is.
    """
    groups: dict[object, list[Learner]] = {}
    for learner in learners:
        if learner.stop:
            continue
        drawing = (learner.settings, getattr(learner.model.head, "settings", None))
        if any(getattr(settings, name, 0) for settings in drawing for name in ("dropout", "backbone_dropout")):
            yield learner
        else:
            shape = (learner.config.kind, learner.config.settings, learner.config.head) if stacked else learner
            groups.setdefault(shape, []).append(learner)
            learner.loss = wrap(learner.model)
    for group in groups.values():
        yield Stack(group, wrap) if len(group) > 1 else group[0]


def networks_that_fit(learner: Learner, batch: Any) -> int:
    """Return how many networks like this one can step together in the free memory of their device, at least one.

    A network takes the activations that it saves for the backward pass of `batch`, its gradients, and the two states
    of AdamW. A processor's memory has no limit here.
    """
    free = free_device_bytes(next(iter(learner.parameters.values())).device)
    if not free:
        return sys.maxsize
    network_bytes = step_bytes(learner.parameters.values(), kept_bytes(learner.model, batch))
    return max(1, int(free // network_bytes))
