"""An ensemble: the average of the predictions of trained networks of one task. It is not trained itself."""

from typing import Any, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from read_cache.loader.batch import Batch
from read_cache.networks.base import Needs, NetworkSettings, NetworkShape, SideNetwork, find_kind
from read_cache.settings import Record, parse
from read_cache.store.schema import Positions


class Member(Record):
    """One network of an ensemble."""

    kind: str
    config: dict[str, Any]
    """Settings of that kind."""
    head: dict[str, Any]
    """Settings of its head."""


class EnsembleConfig(NetworkSettings):
    """The members of an ensemble."""

    members: tuple[Member, ...] = Field(min_length=1)


class Ensemble(SideNetwork):
    """y is the concatenation of K members' y, [B, T, K D]; `scoring.heads.EnsembleHead` averages their predictions."""

    kind = "ensemble"
    Config = EnsembleConfig
    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig, shape: NetworkShape) -> None:
        super().__init__(config, shape)
        self.members = nn.ModuleList(
            find_kind(member.kind)(settings, shape.of_layers(settings.layers))
            for member, settings in zip(config.members, member_settings(config), strict=True)
        )

    @property
    def readout(self) -> str:
        member = self.members[0]
        assert isinstance(member, SideNetwork)
        return member.readout

    @classmethod
    def needs(cls, config: EnsembleConfig) -> Needs:
        needs = [find_kind(m.kind).needs(own) for m, own in zip(config.members, member_settings(config), strict=True)]
        attention = next((need.attention for need in needs if need.attention != "none"), needs[0].attention)
        return Needs(
            attention=attention,
            raw=any(need.raw for need in needs),
            positions=min((need.positions for need in needs), key=get_args(Positions).index),
            last_only=all(need.last_only for need in needs),
        )

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the concatenation of the members' y, [B, T, K D]."""
        return torch.cat([member(batch, generator) for member in self.members], dim=-1)

    def corrected(self, batch: Batch, context: Any, generator: torch.Generator | None = None) -> Tensor:
        return self(batch, generator)


def member_settings(config: EnsembleConfig) -> list[Any]:
    """Return the settings of each member, in the settings class of its kind."""
    return [parse(find_kind(one.kind).Config, one.config, f"member {one.kind}") for one in config.members]
