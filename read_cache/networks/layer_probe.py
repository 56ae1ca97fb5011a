"""The layer probe: a small MLP over the states of all layers, without recurrence and without attention.

It is the baseline that tells what READ gains beyond reading every layer.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.loader.batch import Batch, Statistics, join_texts
from read_cache.networks.base import Needs, NetworkSettings, NetworkShape, SideNetwork
from read_cache.networks.inputs import Standardiser, dropout, network_input


class LayerProbeConfig(NetworkSettings):
    """Settings of the layer probe."""

    shown: ClassVar[tuple[str, ...]] = ("hidden",)
    hidden: int = Field(128, ge=1)
    """Width of the MLP's hidden layer."""
    pooling: Literal["mean", "first", "apart"] = "mean"
    """Pooling of positions: mean, first (the first position; on a decoder-only model the last token of the prompt) or
    apart (for pairs of texts a, b: [a, b, |a - b|, a * b]).
    """


class LayerProbe(SideNetwork):
    """y = phi_N + U tanh(b + sum_i W_i x_i) over the layers i of all stacks, with U = 0 at first.

    x_i is the pooled standardised norm(phi_i) of the row. In a causal readout stack, such as T5's decoder, it is the
    state at the readout position itself, since later positions hold the label.
    """

    kind = "layer_probe"
    Config = LayerProbeConfig

    def __init__(self, config: LayerProbeConfig, shape: NetworkShape) -> None:
        super().__init__(config, shape)
        self.standardisers, self.W = nn.ModuleDict(), nn.ParameterDict()
        for stack in shape.stacks:
            columns = stack.width
            if config.pooling == "apart" and not stack.causal:
                if not stack.segments:
                    raise UserError(f"pooling is 'apart', but the backbone's {stack.name} joins all texts: use mean")
                columns *= 4
            states = len(stack.layers) + 1
            self.standardisers[stack.name] = Standardiser(len(stack.layers), stack.width)
            self.W[stack.name] = nn.Parameter(torch.randn(states, config.hidden, columns) * (states * columns) ** -0.5)
        self.b = nn.Parameter(torch.zeros(config.hidden))
        self.U = nn.Parameter(torch.zeros(shape.stacks[-1].width, config.hidden))

    @classmethod
    def needs(cls, config: LayerProbeConfig) -> Needs:
        return Needs(positions="pooled")

    def context(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return sum_i W_i x_i of every stack before the readout stack, [B, 1, R] each."""
        return {name: self.projected(name, batch, generator) for name in self.W if name != self.readout}

    def corrected(self, batch: Batch, context: dict[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        inner_BTR = self.b + self.projected(self.readout, batch, generator)
        for inner_B1R in context.values():
            inner_BTR = inner_BTR + inner_B1R
        return batch.final + dropout(torch.tanh(inner_BTR), self.config.dropout, generator) @ self.U.T

    def projected(self, name: str, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """Return sum_i W_i x_i over a stack's layers, [B, P, R]; P is 1, or T in a causal readout stack."""
        standardiser = self.standardisers[name]
        assert isinstance(standardiser, Standardiser)
        phi = network_input(batch.stacks[name], standardiser)
        if self.shape.stack(name).causal:
            x_LBPD = phi.states()
        else:
            x_LBPD = join_texts(phi.pooled(batch.targets.positions[name].weights(self.config.pooling)))
        x_LBPD = dropout(x_LBPD, self.config.dropout, generator)
        return torch.einsum("lrd,lbpd->bpr", self.W[name], x_LBPD)

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        for name, standardiser in self.standardisers.items():
            assert isinstance(standardiser, Standardiser)
            standardiser.take(statistics[name].of(self.shape.layers[name]))
