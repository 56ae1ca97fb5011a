"""READ with additions of ours that are not in the paper: matching of like tokens, a gain, a weight on phi_N.

It is a kind of its own, so that no table mistakes its figures for READ's.
"""

from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from read_cache.errors import UserError
from read_cache.loader.batch import Batch
from read_cache.networks.base import StackShape
from read_cache.networks.inputs import Components, WholeStates
from read_cache.networks.matching import Matching
from read_cache.networks.read import Read, ReadConfig, ReadStack


class ReadMatchingConfig(ReadConfig):
    """READ's settings and those of the additions."""

    shown: ClassVar[tuple[str, ...]] = ("cell", "hidden", "matching")
    matching: int = Field(default=64, ge=0)
    """Width of the token-matching module; 0 disables it."""
    embedding_gain: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Scale applied to h_0 before its tanh."""
    residual: float = Field(default=1.0, ge=0, le=1)
    """Weight of phi_N in y = residual phi_N + U h_N; 0 leaves the frozen logits out."""

    @model_validator(mode="after")
    def _check_first_state(self) -> Self:
        if self.initial_state == "zero" and (self.matching or self.embedding_gain != 1):
            raise UserError("matching and embedding_gain change h_0, and initial_state is zero: set it to embeddings")
        return self


class ReadMatchingStack(ReadStack):
    """A READ stack whose first state is h_0 = tanh(gain (W_0 norm(phi_0) + matched))."""

    config: ReadMatchingConfig

    def __init__(self, config: ReadMatchingConfig, shape: StackShape, cross: bool) -> None:
        super().__init__(config, shape, cross)
        compares = config.matching and not shape.causal  # a causal stack's tokens are the target's
        self.matching = Matching(config.matching, config.hidden, shape.width) if compares else None

    def embedded(self, whole: WholeStates | Components, phi: WholeStates | Components, real_BS: Tensor) -> Tensor:
        """Return gain (W_0 norm(phi_0) + matched), [B, S, R]."""
        x_0 = super().embedded(whole, phi, real_BS)
        if self.matching is not None:
            x_0 = x_0 + self.matching(whole, real_BS, phi)
        return self.config.embedding_gain * x_0


class ReadMatching(Read):
    """READ with matching: y = residual phi_N + U h_N."""

    kind = "read_matching"
    Config = ReadMatchingConfig
    Stack = ReadMatchingStack

    def corrected(self, batch: Batch, context: Any, generator: torch.Generator | None = None) -> Tensor:
        """Return y, [B, T, D]."""
        return self.config.residual * batch.final + self.correction(batch, context, generator)
