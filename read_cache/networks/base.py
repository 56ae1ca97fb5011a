"""The seam of side networks: what one needs of a store, and how it turns a batch into corrected final states."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.layers import choose_layers, format_layers
from read_cache.loader.batch import Batch, Statistics
from read_cache.settings import Settings
from read_cache.store.folder import StoreFolder
from read_cache.store.schema import Attention, Format, Positions
from read_cache.store.spec import BackboneSpec, BlockSpec


@dataclasses.dataclass(frozen=True)
class StackShape:
    """One stack as a network sees it."""

    name: str
    width: int
    heads: int
    layers: tuple[int, ...]
    """Numbers, from 1, of the backbone's layers that the network runs over."""
    depth: int
    """Number of layers of the backbone's stack."""
    attends_to: str | None = None
    causal: bool = False
    segments: bool = False
    post_norm: bool = False
    block: BlockSpec = dataclasses.field(default_factory=BlockSpec)
    raw: bool = True
    """The raw output of the last block can be restored from a store."""


@dataclasses.dataclass(frozen=True)
class NetworkShape:
    """The stacks that a network runs over, in the backbone's order."""

    stacks: tuple[StackShape, ...]

    @staticmethod
    def of(spec: BackboneSpec, format: Format, layers: str = "all") -> "NetworkShape":
        """Return the shape of a network over some of the layers that a store holds. Raises UserError."""
        shapes = []
        for stack in spec.stacks:
            chosen = choose_layers(layers, format.layers[stack.name], f"the store's {stack.name}")
            values = {name: value for name, value in stack if name not in ("layers", "final_norm")}
            raw = stack.final_norm or stack.post_norm
            shapes.append(StackShape(**values, layers=chosen, depth=stack.layers, raw=raw))
        return NetworkShape(tuple(shapes))

    @property
    def readout(self) -> str:
        """The stack whose final states the head reads: the last one."""
        return self.stacks[-1].name

    def stack(self, name: str) -> StackShape:
        return next(stack for stack in self.stacks if stack.name == name)

    def of_layers(self, text: str) -> "NetworkShape":
        """Return the shape of a network over some of these layers. Raises UserError."""
        stacks = [
            dataclasses.replace(stack, layers=choose_layers(text, stack.layers, f"the {stack.name}"))
            for stack in self.stacks
        ]
        return NetworkShape(tuple(stacks))

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        return {stack.name: stack.layers for stack in self.stacks}


@dataclasses.dataclass(frozen=True)
class Needs:
    """The parts of a store that a network reads, and the head that it takes."""

    attention: Attention = "none"
    raw: bool = False
    """The network reads `StackBatch.raw_state`."""
    positions: Positions = "all"
    """The least that it can do with: states at all positions, or at the readout's, or pooled ones."""
    last_only: bool = False
    """Of the layers' outputs the network reads the last one alone, and that after the final norm."""
    trainable_head: bool = False
    """The network takes a trainable head even where the backbone has an LM head."""


class NetworkSettings(Settings):
    """Settings that every kind of network has."""

    shown: ClassVar[tuple[str, ...]] = ()
    """Fields whose values are always part of a network's name."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate in training."""
    layers: str = "all"
    """Layers that the network runs over, such as 2,4,6-12; each stack's last layer is always included."""


class SideNetwork(nn.Module, abc.ABC):
    """A network that trains beside a frozen backbone from cached activations alone.

    A subclass defines `kind`, `Config` and `corrected`, and is registered in `NETWORKS`.
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

    def context(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return what `corrected` needs of the stacks before the readout stack, [B, ...] each; by default nothing.

        Generation computes it once for all steps.
        """
        return {}

    @abc.abstractmethod
    def corrected(self, batch: Batch, context: Any, generator: torch.Generator | None = None) -> Tensor:
        """Return y, [B, T, D]: corrected final states. `generator` draws the dropout; None outside training."""

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return y, [B, T, D]: the corrected final state at every position of the readout stack."""
        batch = batch.of(self.shape.layers)
        return self.corrected(batch, self.context(batch, generator), generator)

    def take_first_weights(self, folder: StoreFolder) -> None:
        """Take first weights that the store's folder holds, before training; by default there are none."""

    @property
    def takes_statistics(self) -> bool:
        """True if the network stores channel statistics."""
        return type(self).set_statistics is not SideNetwork.set_statistics

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        """Store the channel statistics of training rows, by stack; by default they are ignored."""


def check_needs(network: SideNetwork, format: Format, name: str, where: str) -> None:
    """Raise UserError if a store of this format lacks layers, states or attention weights that the network reads.

    `name` and `where` name the network and the store.
    """
    needs = network.needs(network.config)
    if needs.raw and not needs.last_only and not all(stack.raw for stack in network.shape.stacks):
        raise UserError(
            f"{name} reads the raw output of the last block, which {where} does not hold: it is not kept of a backbone "
            "whose last norm is a layer norm, and it is unknown of imported states"
        )
    if needs.attention not in ("none", format.attention):
        raise UserError(
            f"{name} reads attention {needs.attention!r}, {where} holds {format.attention!r}: set attention to "
            f"{format.attention}, or extract the store again with attention {needs.attention}"
        )
    *others, readout = (format.state_axis(stack.causal) for stack in network.shape.stacks)
    enough = {"all": {*others, readout} == {"token"}, "readout": readout != "pooled", "pooled": True}
    if not enough[needs.positions]:
        raise UserError(
            f"{name} reads the states of {needs.positions} positions, {where} holds {format.positions} states alone: "
            "extract it again with positions all, or train layer_probe or probe"
        )
    for stack in network.shape.stacks:
        layers = stack.layers[-1:] if needs.last_only else stack.layers
        if missing := tuple(sorted(set(layers) - set(format.layers[stack.name]))):
            raise UserError(
                f"{name} runs over layers {format_layers(layers)} of the {stack.name}, {where} lacks "
                f"{format_layers(missing)}: set layers to some that it holds, or extract it again with these"
            )


NETWORKS: dict[str, type[SideNetwork]] = {}
"""Kinds of side networks by name; `networks/__init__.py` fills it."""


def find_kind(kind: str) -> type[SideNetwork]:
    """Return a kind of network by name. Raises UserError."""
    if kind not in NETWORKS:
        raise UserError(f"network {kind!r} is unknown; known: {', '.join(NETWORKS)}")
    return NETWORKS[kind]


def build_network(kind: str, config: NetworkSettings, shape: NetworkShape, seed: int) -> SideNetwork:
    """Return a network whose weights depend on the arguments alone; the global random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return find_kind(kind)(config, shape)
