"""The seam of side networks: what one needs of a store, and how it turns a batch into corrected final states."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.layers import choose_layers
from read_cache.loader.batch import Batch, Statistics
from read_cache.settings import Settings
from read_cache.store.schema import Attention, Format
from read_cache.store.spec import BackboneSpec


@dataclasses.dataclass(frozen=True)
class StackShape:
    """One stack as a network sees it."""

    name: str
    width: int
    heads: int
    layers: tuple[int, ...]
    """The backbone's numbers, from 1, of the layers that the network runs over."""
    depth: int
    """Layers of the backbone's stack."""
    attends_to: str | None = None
    causal: bool = False
    post_norm: bool = False


@dataclasses.dataclass(frozen=True)
class NetworkShape:
    """The stacks that a network runs over, in the backbone's order."""

    stacks: tuple[StackShape, ...]

    @staticmethod
    def of(spec: BackboneSpec, format: Format, layers: str = "all") -> "NetworkShape":
        """Return the shape of a network over some of the layers that a store holds. Raises UserError."""
        return NetworkShape(
            tuple(
                StackShape(
                    stack.name,
                    stack.width,
                    stack.heads,
                    choose_layers(layers, format.layers[stack.name], f"the store's {stack.name}"),
                    stack.layers,
                    stack.attends_to,
                    stack.causal,
                    stack.post_norm,
                )
                for stack in spec.stacks
            )
        )

    @property
    def readout(self) -> str:
        """The stack whose final states the head reads: the last one."""
        return self.stacks[-1].name

    def stack(self, name: str) -> StackShape:
        """Return a stack by name."""
        return next(stack for stack in self.stacks if stack.name == name)

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Layers by stack."""
        return {stack.name: stack.layers for stack in self.stacks}


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a network reads of a store, and which head it takes."""

    attention: Attention = "none"
    raw: bool = False
    """It reads `StackBatch.raw_state`."""
    last_only: bool = False
    """It reads the last layer alone."""
    trainable_head: bool = False
    """It takes a trainable head even where the backbone has an LM head."""


class NetworkSettings(Settings):
    """Settings that every kind of network has."""

    shown: ClassVar[tuple[str, ...]] = ()
    """Fields whose values are always part of a network's name."""
    dropout: float = 0.0
    """Dropout rate in training."""
    layers: str = "all"
    """Layers that the network runs over, such as 2,4,6-12; each stack's last layer is always included."""


class SideNetwork(nn.Module, abc.ABC):
    """A network that trains beside a frozen backbone from cached activations alone.

    Subclasses set `kind`, `Config` and `corrected`; registering them in `NETWORKS` makes them a choice of `network`.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[NetworkSettings]]

    def __init__(self, config: Any, shape: NetworkShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape

    @property
    def readout(self) -> str:
        """The stack whose positions the output has."""
        return self.shape.readout

    @classmethod
    def resolve(cls, config: Any, format: Format) -> Any:
        """Return the configuration with every value that the store decides filled in."""
        return config

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Return what a network of this configuration reads."""
        return Needs()

    def context(self, batch: Batch, generator: torch.Generator | None = None) -> Any:
        """Return what the stacks before the readout stack give; None by default. `corrected` takes it.

        It does not depend on the readout stack, so generation computes it once for all steps.
        """
        return None

    @abc.abstractmethod
    def corrected(self, batch: Batch, context: Any, generator: torch.Generator | None = None) -> Tensor:
        """Return y, [B, T, D]: corrected final states. `generator` draws the dropout; None outside training."""

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return y, [B, T, D]: the corrected final state at every position of the readout stack."""
        batch = batch.of(self.shape.layers)
        return self.corrected(batch, self.context(batch, generator), generator)

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        """Take the statistics of every stack's states over training rows. Networks that need none ignore them."""


def check_needs(kind: type[SideNetwork], config: Any, spec: BackboneSpec, format: Format) -> None:
    """Raise UserError if a network needs layers or attention weights that a store does not hold."""
    NetworkShape.of(spec, format, config.layers)
    needs = kind.needs(config)
    if needs.raw and not all(stack.final_norm or stack.post_norm for stack in spec.stacks):
        raise UserError(
            f"network {kind.kind} needs the raw output of the last block, which the store does not hold: the last norm of "
            f"a {spec.family} cannot be undone"
        )
    wanted = needs.attention
    if wanted not in ("none", format.attention):
        raise UserError(
            f"the store holds attention {format.attention!r}, network {kind.kind} needs {wanted!r}: set attention to "
            f"{format.attention}, or extract again with attention {wanted}"
        )


NETWORKS: dict[str, type[SideNetwork]] = {}
"""Kinds of side networks by name; `networks/__init__.py` fills it."""


def find_kind(kind: str) -> type[SideNetwork]:
    """Return a kind of network by name. Raises UserError."""
    if kind not in NETWORKS:
        raise UserError(f"network {kind!r} is unknown; known: {', '.join(NETWORKS)}")
    return NETWORKS[kind]


def build_network(kind: str, config: NetworkSettings, shape: NetworkShape, seed: int) -> SideNetwork:
    """Return a network whose weights depend on the arguments alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return find_kind(kind)(config, shape)
