"""READ with additions that are not in the paper: matching of like tokens, a gain on h_0, a weight on phi_N.

A backbone that never learnt to compare two texts gives another occurrence of a word hardly more attention than any
other token. Matching lets a side network see that two texts share words.
"""

import dataclasses
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.loader.batch import Batch
from read_cache.networks.base import Needs, StackShape
from read_cache.networks.inputs import Components, WholeStates
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


SHARPNESS, THRESHOLD = 16.0, 0.75
"""First values of g and t: an equal token (cosine 1) gets the weight 0.98, a cosine of 0.5 gets 0.02."""


class Matching(nn.Module):
    """Adds to a token's first state a value for the tokens of its row that are like it.

    q^a   = P norm(phi_0^a), of length 1
    c^ab  = exp(g (q^a q^b - t)) / (1 + sum_{b' != a} exp(g (q^a q^b' - t))),  c^aa = 0
    out^a = sum_b c^ab (V norm(phi_0^b) + m)

    A row of c sums to less than 1 where no token is alike. norm(phi_0) is standardised as the network's input is,
    since raw embeddings share a mean, which makes all of them more alike.
    """

    def __init__(self, width: int, hidden: int, backbone_width: int) -> None:
        super().__init__()
        self.P = nn.Parameter(torch.randn(width, backbone_width) * backbone_width**-0.5)
        self.V = nn.Parameter(torch.randn(hidden, backbone_width) * backbone_width**-0.5)
        self.m = nn.Parameter(torch.randn(hidden))
        self.g, self.t = nn.Parameter(torch.tensor(SHARPNESS)), nn.Parameter(torch.tensor(THRESHOLD))

    def likeness(self, phi: WholeStates | Components, real_BS: Tensor) -> Tensor:
        """Return c, [B, S, S]."""
        q_BSW = F.normalize(phi.embeddings(self.P).float(), dim=-1)
        score_BSS = self.g * (q_BSW @ q_BSW.transpose(1, 2) - self.t)
        itself = torch.eye(score_BSS.shape[-1], dtype=torch.bool, device=score_BSS.device)
        score_BSS = score_BSS.masked_fill(itself | ~real_BS[:, None], float("-inf"))
        return F.pad(score_BSS, (0, 1)).softmax(-1)[..., :-1]

    def forward(self, phi: WholeStates | Components, real_BS: Tensor, values: WholeStates | Components) -> Tensor:
        """Return `out`, [B, S, R]. `values` are phi after dropout, under which equal tokens would differ."""
        c_BSS = self.likeness(phi, real_BS)
        return c_BSS @ (values.embeddings(self.V) + self.m).to(c_BSS.dtype)


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

    @classmethod
    def needs(cls, config: ReadConfig) -> Needs:
        needs = super().needs(config)
        compares = isinstance(config, ReadMatchingConfig) and config.matching
        return dataclasses.replace(needs, positions="all") if compares else needs

    def corrected(self, batch: Batch, context: Any, generator: torch.Generator | None = None) -> Tensor:
        return self.config.residual * batch.final + self.correction(batch, context, generator)
