"""The probe: the frozen final states and a trainable head, nothing else. Every side network must beat it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from read_cache.loader.batch import Batch, Statistics
from read_cache.networks.base import Needs, NetworkSettings, NetworkShape, SideNetwork
from read_cache.networks.inputs import Standardiser


class Probe(SideNetwork):
    """y = standardised norm(phi_N) of the first stack: the encoder, where the backbone has one. No parameters."""

    kind = "probe"
    Config = NetworkSettings

    def __init__(self, config: NetworkSettings, shape: NetworkShape) -> None:
        super().__init__(config, shape)
        self.standardiser = Standardiser(0, shape.stacks[0].width)

    @property
    def readout(self) -> str:
        return self.shape.stacks[0].name

    @classmethod
    def needs(cls, config: NetworkSettings) -> Needs:
        return Needs(positions="pooled", last_only=True, trainable_head=True)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return y, [B, S, D], of a batch with any layers, the stack's last one included."""
        return self.corrected(batch, None, generator)

    def corrected(self, batch: Batch, context: Any, generator: torch.Generator | None = None) -> Tensor:
        stack = batch.stacks[self.readout]
        x_BSD = stack.whole_state(len(stack.layers))
        return (x_BSD - self.standardiser.mean_LD[0]) * self.standardiser.scale_LD[0]

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        last = statistics[self.readout]
        self.standardiser.take(Statistics(last.mean[-1:], last.deviation[-1:], ()))
