"""norm(phi) as a network takes it in: whole states, or components that are never blown up to states.

Shape letters as in batch.py; G gates times R.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from read_cache.networks.batch import Projection, StackBatch


@dataclasses.dataclass(frozen=True)
class WholeStates:
    """[L+1, B, S, D]."""

    phi_LBSD: Tensor

    @property
    def shape(self) -> torch.Size:
        """(B, S)."""
        return self.phi_LBSD.shape[1:3]

    def layers(self, W_LGD: Tensor, b_LG: Tensor) -> Sequence[Tensor]:
        """W phi_i + b for i = 1 … N, [B, S, G] each; one product where all layers share their weights."""
        if len(W_LGD) == 1:  # unbind, not indexing: an index's gradient is a full tensor of zeros for each layer
            return F.linear(self.phi_LBSD[1:], W_LGD[0], b_LG[0]).unbind(0)
        return [F.linear(phi, W, b) for phi, W, b in zip(self.phi_LBSD[1:], W_LGD, b_LG, strict=True)]

    def embeddings(self, W_RD: Tensor) -> Tensor:
        """W phi_0, [B, S, R]."""
        return F.linear(self.phi_LBSD[0], W_RD)


@dataclasses.dataclass(frozen=True)
class Components:
    """phi = mean + expand z. W phi = (W expand) z + W mean, and W expand is small beside the tokens."""

    z_LBSK: Tensor
    projection: Projection

    @property
    def shape(self) -> torch.Size:
        """(B, S)."""
        return self.z_LBSK.shape[1:3]

    def layers(self, W_LGD: Tensor, b_LG: Tensor) -> Sequence[Tensor]:
        """W phi_i + b for i = 1 … N, [B, S, G] each."""
        z_LMK = self.z_LBSK[1:].flatten(1, 2)
        bias_LG = b_LG + (W_LGD @ self.projection.mean[1:, :, None])[..., 0]
        product_LMG = torch.baddbmm(bias_LG[:, None], z_LMK, (W_LGD @ self.projection.expand[1:]).transpose(1, 2))
        return product_LMG.unflatten(1, self.shape).unbind(0)

    def embeddings(self, W_RD: Tensor) -> Tensor:
        """W phi_0, [B, S, R]."""
        return F.linear(self.z_LBSK[0], W_RD @ self.projection.expand[0], W_RD @ self.projection.mean[0])


def standardised(stack: StackBatch, mean_LD: Tensor | None, scale_LD: Tensor | None) -> WholeStates | Components:
    """(norm(phi) - mean) * scale, or norm(phi) without them; components stay components."""
    if stack.projection is not None:
        projection = stack.projection
        if mean_LD is not None and scale_LD is not None:
            projection = Projection((projection.mean - mean_LD) * scale_LD, scale_LD[..., None] * projection.expand)
        return Components(stack.normed, projection)
    if mean_LD is not None and scale_LD is not None:
        return WholeStates((stack.normed - mean_LD[:, None, None]) * scale_LD[:, None, None])
    return WholeStates(stack.normed)


def dropped_out(phi: WholeStates | Components, p: float, generator: torch.Generator | None) -> WholeStates | Components:
    """Inverted dropout on states whose mask comes from the network's own generator, whatever trains beside it."""
    if not p or generator is None:
        return phi
    # Dropout meets channels, so components must be made states here.
    phi_LBSD = phi.projection.states(phi.z_LBSK) if isinstance(phi, Components) else phi.phi_LBSD
    keep = torch.empty_like(phi_LBSD).bernoulli_(1 - p, generator=generator)
    return WholeStates(phi_LBSD * keep / (1 - p))
