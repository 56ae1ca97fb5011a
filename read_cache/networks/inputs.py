"""norm(phi) as a network's input: whole states, or principal components, which are never expanded for every token.

Shape letters as in batch.py; G gates times R, P pooled vectors of a row.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from read_cache.loader.batch import Projection, StackBatch, Statistics
from read_cache.store.schema import RMS_EPSILON

ROWS = 1024
"""Tokens of a layer that are normalised at a time, so that they stay in the processor's cache."""
KINDS = 2
"""Number of inputs kept for the networks of a batch: standardised, and not."""


@dataclasses.dataclass(frozen=True)
class WholeStates:
    """Hidden states, [L+1, B, S, D]."""

    phi_LBSD: Tensor

    @property
    def shape(self) -> torch.Size:
        """(B, S)."""
        return self.phi_LBSD.shape[1:3]

    def layers(self, W_LGD: Tensor, b_LG: Tensor) -> Sequence[Tensor]:
        """Return W phi_i + b for i = 1 … N, [B, S, G] each; one product where all layers share their weights."""
        if len(W_LGD) == 1:  # unbind, not indexing: an index's gradient is a full tensor of zeros for each layer
            return F.linear(self.phi_LBSD[1:], W_LGD[0], b_LG[0]).unbind(0)
        return [F.linear(phi, W, b) for phi, W, b in zip(self.phi_LBSD[1:], W_LGD, b_LG, strict=True)]

    def embeddings(self, W_RD: Tensor) -> Tensor:
        """Return W phi_0, [B, S, R]."""
        return F.linear(self.phi_LBSD[0], W_RD)

    def pooled(self, weights_BPS: Tensor) -> Tensor:
        """Return weighted sums over the tokens, [L+1, B, P, D]."""
        return weights_BPS.to(self.phi_LBSD.dtype) @ self.phi_LBSD

    def states(self) -> Tensor:
        """Return the states, [L+1, B, S, D]."""
        return self.phi_LBSD


@dataclasses.dataclass(frozen=True)
class Components:
    """phi = mean + expand z. W phi = (W expand) z + W mean, and W expand is small beside the tokens."""

    z_LBSK: Tensor
    projection: Projection

    @property
    def shape(self) -> torch.Size:
        return self.z_LBSK.shape[1:3]

    def layers(self, W_LGD: Tensor, b_LG: Tensor) -> Sequence[Tensor]:
        """Return W phi_i + b for i = 1 … N, [B, S, G] each."""
        z_LMK = self.z_LBSK[1:].flatten(1, 2)
        bias_LG = b_LG + (W_LGD @ self.projection.mean[1:, :, None])[..., 0]
        product_LMG = torch.baddbmm(bias_LG[:, None], z_LMK, (W_LGD @ self.projection.expand[1:]).transpose(1, 2))
        return product_LMG.unflatten(1, self.shape).unbind(0)

    def embeddings(self, W_RD: Tensor) -> Tensor:
        return F.linear(self.z_LBSK[0], W_RD @ self.projection.expand[0], W_RD @ self.projection.mean[0])

    def pooled(self, weights_BPS: Tensor) -> Tensor:
        z_LBPK = weights_BPS.to(self.z_LBSK.dtype) @ self.z_LBSK
        mean_LBPD = weights_BPS.sum(-1, keepdim=True) * self.projection.mean[:, None, None]
        return torch.einsum("ldk,lbpk->lbpd", self.projection.expand, z_LBPK) + mean_LBPD

    def states(self) -> Tensor:
        return self.projection.states(self.z_LBSK)


class Standardiser(nn.Module):
    """Mean and scale of every channel of every layer of one stack, from training rows."""

    def __init__(self, layers: int, width: int) -> None:
        """`layers`: number of layers, the embeddings not counted."""
        super().__init__()
        self.mean_LD: Tensor
        self.scale_LD: Tensor
        self.register_buffer("mean_LD", torch.zeros(layers + 1, width))
        self.register_buffer("scale_LD", torch.ones(layers + 1, width))
        self.key = ""
        """Equal for equal statistics."""
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "key", digest(module)))

    def take(self, statistics: Statistics) -> None:
        """Use these statistics; networks with the same object share its tensors."""
        self.mean_LD, self.scale_LD = statistics.mean, statistics.scale
        self.key = digest(self)


def digest(statistics: Standardiser) -> str:
    """Return the SHA-256 of the mean and scale of a Standardiser."""
    values = torch.stack([statistics.mean_LD, statistics.scale_LD]).cpu().contiguous().numpy()
    return hashlib.sha256(values.tobytes()).hexdigest()


def product_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype in which a network multiplies stored values: autocast's, or at least float32."""
    device = values.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(values.dtype, torch.float32)


def network_input(stack: StackBatch, standardiser: Standardiser | None) -> WholeStates | Components:
    """Return (norm(phi) - mean) * scale, or norm(phi) without a standardiser; components stay components.

    It is computed once a batch for all networks with equal statistics, in the precision of their products.
    """
    dtype = product_dtype(stack.values)
    key = (None if standardiser is None else standardiser.key, dtype)
    if key not in stack.shared:
        inputs = sum(not isinstance(value, Tensor) for value in stack.shared.values())
        if inputs >= KINDS:  # networks that share nothing would each leave a copy of the states behind
            stack.shared.clear()
        stack.shared[key] = _standardised(stack, standardiser, dtype)
    return stack.shared[key]


def _standardised(stack: StackBatch, standardiser: Standardiser | None, dtype: torch.dtype) -> WholeStates | Components:
    values, projection = stack.values, stack.projection
    if projection is not None:
        if standardiser is not None:
            mean_LD, scale_LD = standardiser.mean_LD, standardiser.scale_LD
            projection = Projection((projection.mean - mean_LD) * scale_LD, scale_LD[..., None] * projection.expand)
        return Components(values.to(dtype), projection)
    if standardiser is not None:
        scale_LD, shift_LD = standardiser.scale_LD, -standardiser.mean_LD * standardiser.scale_LD
    else:
        scale_LD = values.new_ones(values.shape[::3], dtype=torch.promote_types(dtype, torch.float32))
        shift_LD = torch.zeros_like(scale_LD)
    phi_LBSD = torch.empty(values.shape, dtype=dtype, device=values.device)
    for layer, out, scale, shift in zip(values.flatten(1, 2), phi_LBSD.flatten(1, 2), scale_LD, shift_LD, strict=True):
        for rows, rows_out in zip(layer.split(ROWS), out.split(ROWS), strict=True):
            x = rows.to(scale.dtype)
            if stack.raw:
                x = x * (x.square().mean(-1, keepdim=True) + RMS_EPSILON).rsqrt()
            torch.addcmul(shift, x, scale, out=rows_out)
    return WholeStates(phi_LBSD)


def dropped_out(phi: WholeStates | Components, p: float, generator: torch.Generator | None) -> WholeStates | Components:
    """Return states after dropout. Components become states, since dropout applies to channels."""
    return WholeStates(dropout(phi.states(), p, generator)) if p and generator is not None else phi


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Return x after inverted dropout drawn from `generator`; x itself without one, outside training.

    Four elements share a random number of 64 bits, so the rate is rounded to 1/65536: on a processor the random numbers
    take a fifth of the time of `bernoulli_`.
    """
    if not rate or generator is None:
        return x
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    lanes = numbers.random_(-(2**63), None, generator=generator).view(torch.int16)[: x.numel()].view(x.shape)
    dropped = min(round(rate * 2**16), 2**16 - 1)
    return x * (lanes >= dropped - 2**15).to(x.dtype).mul_(1 / (1 - dropped / 2**16))
