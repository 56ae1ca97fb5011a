"""SAFE: adapters that change little are frozen early, so backward stops at the lowest that trains.

Son et al., NAACL 2025. Its code is not public. From the paper are: adapters, a warm-up, importance by CKA, a threshold
that grows on a cubic schedule, and that frozen adapters stay frozen. The rest is ours, and each choice is a setting.
"""

import contextlib
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.methods.adapter import Adapter, AdapterConfig
from read_cache.methods.base import LiveBatch
from read_cache.scoring.evaluator import Batches

CONSTANT = 1e-6
"""States are constant if their centred norm is at most this share of their norm: the rounding of float32."""


class SafeConfig(AdapterConfig):
    """Settings of SAFE. Adapters are frozen at the ends of epochs."""

    freezing_start: float = Field(0.1, ge=0, lt=1)
    """No adapter is frozen before this share of all epochs, which the paper calls the warm-up."""
    freezing_end: float = Field(0.5, gt=0, le=1)
    """No further adapter is frozen after this share of all epochs."""
    threshold: float | None = Field(None, ge=0, le=1)
    """Last threshold, at `freezing_end`: adapters up to this importance are frozen; by default a quantile."""
    frozen_share: float = Field(0.6, ge=0, lt=1)
    """Quantile of the current importances that is the last threshold if `threshold` is not set."""
    importance: Literal["block", "adapter"] = "block"
    """1 - CKA of a block's outputs without and with adapters (block), or of an adapter's input and output (adapter)."""
    probe_batches: int = Field(1, ge=1)
    """Number of training batches from which importance is computed after each epoch."""

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.freezing_end <= self.freezing_start:
            raise UserError(
                f"freezing_end is {self.freezing_end}, expected more than freezing_start: {self.freezing_start}"
            )
        return self


class Safe(Adapter):
    """Train adapters, and freeze those of little importance for good. At least one trains to the end."""

    kind = "safe"
    Config = SafeConfig
    config: SafeConfig

    def end_epoch(self, epoch: int, epochs: int, batches: Batches) -> None:
        config, time = self.config, epoch / epochs
        if time <= config.freezing_start or (epoch - 1) / epochs >= config.freezing_end:
            return
        before = self.get_extra_state()
        importance = self.importance(list(islice(batches.epoch(0, 0), config.probe_batches))).cpu()  # always these rows
        final = config.threshold
        if final is None:
            final = float(importance.quantile(config.frozen_share, interpolation="lower"))
        tau = cubic_threshold(time, config.freezing_start, config.freezing_end, final)
        frozen = before | (importance <= tau)
        if frozen.all():
            frozen[importance.masked_fill(before, -1).argmax()] = False
        self.set_extra_state(frozen)

    def get_extra_state(self) -> Tensor:
        """Return a mask of the frozen adapters, [adapters] bool."""
        return torch.tensor([not adapter.up.weight.requires_grad for adapter in self.adapters])  # type: ignore[union-attr]

    def set_extra_state(self, state: Tensor) -> None:
        """Freeze the adapters of a mask, [adapters] bool."""
        for adapter, frozen in zip(self.adapters, state.tolist(), strict=True):
            adapter.requires_grad_(not frozen)

    @torch.no_grad()
    def importance(self, batches: Sequence[LiveBatch]) -> Tensor:
        """Return 1 - CKA of each adapter over the real positions of some batches, [adapters]."""
        self.module.eval()
        self.adapted = self.config.importance == "adapter"
        before = self._outputs(batches, before=True)
        self.adapted = True
        return torch.stack([1 - linear_cka(x, y) for x, y in zip(before, self._outputs(batches), strict=True)])

    def _outputs(self, batches: Sequence[LiveBatch], before: bool = False) -> list[Tensor]:
        """Return the output of each adapter or of its block, [tokens, D]; with `before`, the adapter's input."""
        of_batches: list[list[Tensor]] = []
        for batch in batches:
            states: list[Tensor] = []
            with contextlib.ExitStack() as hooks:
                for stack, blocks in self.backbone.blocks().items():
                    keep = partial(_keep, states, batch.tokens.stacks[stack].mask)
                    for block in blocks:
                        for site in (block.attention, block.feed_forward):
                            part = block.module if self.config.importance == "block" else site
                            hooks.callback(part.register_forward_hook(keep, prepend=before).remove)
                self.backbone.final(batch.tokens)
            of_batches.append(states)
        return [torch.cat(states) for states in zip(*of_batches, strict=True)]


def _keep(states: list[Tensor], mask: Tensor, part: nn.Module, given: Any, out: Any) -> None:
    states.append((out if isinstance(out, Tensor) else out[0])[mask])


def cubic_threshold(time: float, start: float, end: float, final: float) -> float:
    """Return tau at a time: 0 at `start`, `final` from `end` on, and final (1 - (1 - share of the way)^3) between."""
    way = min(1.0, max(0.0, (time - start) / (end - start)))
    return final * (1 - (1 - way) ** 3)


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Return the linear CKA of two representations, [tokens, D] each: a scalar from 0 to 1 (Kornblith et al. 2019).

    It is 1 if one of them is constant over the tokens, such as self-attention over a start token alone.
    """
    x, y = x.double(), y.double()
    x_centred, y_centred = x - x.mean(0), y - y.mean(0)
    if x_centred.norm() <= CONSTANT * x.norm() or y_centred.norm() <= CONSTANT * y.norm():
        return x.new_ones(())
    cross = (y_centred.T @ x_centred).norm() ** 2
    return cross / ((x_centred.T @ x_centred).norm() * (y_centred.T @ y_centred).norm())
