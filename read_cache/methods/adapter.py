"""Adapters: a bottleneck after each attention and feed-forward sublayer trains (Houlsby et al. 2019)."""

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from read_cache.methods.base import LiveConfig, LiveMethod


class AdapterConfig(LiveConfig):
    """Settings of adapters."""

    shown: ClassVar[tuple[str, ...]] = ("bottleneck",)
    bottleneck: int = Field(64, ge=1)
    """Width m of each adapter."""


class Bottleneck(nn.Module):
    """z + up(gelu(down(z))) on a sublayer's output z. It starts near z: weights N(0, 0.01^2), biases zero."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Return the sublayer's new output, [..., D]."""
        return z + self.up(F.gelu(self.down(z), approximate="tanh"))


class Adapter(LiveMethod):
    """Train an adapter on the output of each self-attention and feed-forward sublayer, before dropout and residual.

    Cross-attention has none, as in the public code for T5.
    """

    kind = "adapter"
    Config = AdapterConfig
    config: AdapterConfig
    adapted = True
    """False if a forward pass skips the adapters."""

    def insert(self, module: nn.Module) -> nn.Module:
        adapters = nn.ModuleList()
        for stack in self.backbone.stacks:
            for block in self.backbone.blocks()[stack.name]:
                for site in (block.attention, block.feed_forward):
                    adapter = Bottleneck(stack.width, self.config.bottleneck)
                    adapters.append(adapter)
                    site.register_forward_hook(lambda _, given, z, own=adapter: own(z) if self.adapted else z)
        module.add_module("adapters", adapters)
        return module

    @property
    def adapters(self) -> nn.ModuleList:
        """Two adapters a block, attention before feed-forward, in the order in which the blocks run."""
        return self.module.adapters  # type: ignore[return-value]
