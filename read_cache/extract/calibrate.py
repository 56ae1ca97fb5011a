"""The calibration of a store whose encoder states are int8 or projected, and the encoding by it."""

import numpy as np
import torch
from torch import Tensor

from read_cache.store.quantization import DEVIATION_FLOOR, RMS_EPSILON, Calibration
from read_cache.store.schema import Form

HEADROOM = 1.25
"""int8 reaches this far beyond the largest value seen in calibration; what lies further is clipped."""


def calibrate(hidden_SND: np.ndarray, form: Form) -> Calibration:
    """Fit a calibration to some tokens' states, [L+1, N, D] float32. The same states give the same calibration."""
    means, deviations, scales, bases = [], [], [], []
    for hidden_ND in hidden_SND:
        x_ND = normalise(torch.from_numpy(hidden_ND))[0].double()
        means.append(x_ND.mean(0))
        deviations.append((x_ND.var(0, correction=0) + DEVIATION_FLOOR**2).sqrt())
        y_ND = (x_ND - means[-1]) / deviations[-1]
        if form.rank:
            bases.append(principal_directions(y_ND, form.rank))
            y_ND = y_ND @ bases[-1].T
        largest = y_ND.abs().amax(0).clamp(min=1e-3)
        scales.append(largest * HEADROOM / 127 if form.dtype == "int8" else torch.ones_like(largest))
    mean, deviation, scale = (torch.stack(values).float().numpy() for values in (means, deviations, scales))
    return Calibration(mean, deviation, scale, torch.stack(bases).float().numpy() if form.rank else None)


def principal_directions(y_ND: Tensor, rank: int) -> Tensor:
    """[rank, D]: the leading eigenvectors of the covariance, each with its largest entry positive."""
    _, vectors_DD = torch.linalg.eigh(y_ND.T @ y_ND)
    leading_KD = vectors_DD.flip(1)[:, :rank].T
    largest_K1 = leading_KD.gather(1, leading_KD.abs().argmax(1, keepdim=True))
    return leading_KD * largest_K1.sign()


def normalise(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """(x, rms): states over their root mean square, float32, and that, [..., 1]."""
    values = hidden.float()
    rms = (values.square().mean(-1, keepdim=True) + RMS_EPSILON).sqrt()
    return values / rms, rms


def encode(hidden_SBTD: Tensor, calibration: Calibration, form: Form) -> tuple[Tensor, Tensor]:
    """(stored, rms): what a store holds of encoder states; float32, bfloat16 or int8, and rms [S, B, T] float32."""
    stored, norms = [], []
    for state, hidden_BTD in enumerate(hidden_SBTD):
        mean, deviation, scale, *basis = (
            torch.from_numpy(values[state]).to(hidden_BTD.device) for values in calibration.arrays().values()
        )
        x_BTD, rms = normalise(hidden_BTD)
        y = (x_BTD - mean) / deviation
        if basis:
            y = y @ basis[0].T
        if form.dtype == "int8":
            y = (y / scale).round_().clamp_(-127, 127).to(torch.int8)
        stored.append(y.bfloat16() if form.dtype == "bf16" else y)
        norms.append(rms[..., 0])
    return torch.stack(stored), torch.stack(norms)
