"""Side-Tuning as in LST's repository: side blocks that read the embeddings alone, mixed with the backbone's last state.

"Side-Tuning: A Baseline for Network Adaptation via Additive Side Networks" (Zhang et al., 2020); as in
"LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning" (Sung et al., 2022).
"""

import dataclasses
from typing import Literal

from read_cache.networks.base import Needs, NetworkShape
from read_cache.networks.ladder import Ladder, LadderConfig


class SideTuningConfig(LadderConfig):
    """Settings of Side-Tuning: those of a ladder."""

    merge_last: bool = True
    """Mix the output with the backbone's last state; false is the side network alone ("network pruning" in LST)."""
    layers: Literal["all"] = "all"
    """Only all: every layer of the backbone has a side block, even if the store has fewer layers."""


class SideTuning(Ladder):
    """y = g Linear_up(out) + (1 - g) phi_N, where `out` comes from a ladder whose gates are all 1.

    It reads two states of each stack: the embeddings and the last one.
    """

    kind = "side_tuning"
    Config = SideTuningConfig
    reads_layers = False

    def __init__(self, config: SideTuningConfig, shape: NetworkShape) -> None:
        last = (dataclasses.replace(stack, layers=stack.layers[-1:]) for stack in shape.stacks)
        super().__init__(config, NetworkShape(tuple(last)))

    @classmethod
    def needs(cls, config: LadderConfig) -> Needs:
        return Needs(raw=True, last_only=True)
