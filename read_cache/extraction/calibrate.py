"""Calibrated formats, in which the first stack's states are int8 or projected: fitted, and applied.

`store/schema.py` has the equations.
"""

import numpy as np
import torch
from torch import Tensor

from read_cache.store.schema import DEVIATION_FLOOR, RMS_EPSILON, Calibration, Format

HEADROOM = 1.25
"""int8 reaches this far beyond the largest value seen in calibration; larger values are clipped."""


def calibrate(hidden_SND: np.ndarray, format: Format) -> Calibration:
    """Fit a calibration to some tokens' states, [L+1, N, D] float32. The same states give the same calibration."""
    means, deviations, scales, bases = [], [], [], []
    for hidden_ND in hidden_SND:
        x_ND = normalise(torch.from_numpy(hidden_ND)).double()
        means.append(x_ND.mean(0))
        deviations.append((x_ND.var(0, correction=0) + DEVIATION_FLOOR**2).sqrt())
        y_ND = (x_ND - means[-1]) / deviations[-1]
        if format.rank:
            bases.append(principal_directions(y_ND, format.rank))
            y_ND = y_ND @ bases[-1].T
        largest = y_ND.abs().amax(0).clamp(min=1e-3)
        scales.append(largest * HEADROOM / 127 if format.dtype == "int8" else torch.ones_like(largest))
    mean, deviation, scale = (torch.stack(values).float().numpy() for values in (means, deviations, scales))
    return Calibration(mean, deviation, scale, torch.stack(bases).float().numpy() if format.rank else None)


def principal_directions(y_ND: Tensor, rank: int) -> Tensor:
    """Return [rank, D]: the leading eigenvectors of the covariance, each with its largest entry positive."""
    _, vectors_DD = torch.linalg.eigh(y_ND.T @ y_ND)
    leading_KD = vectors_DD.flip(1)[:, :rank].T
    largest_K1 = leading_KD.gather(1, leading_KD.abs().argmax(1, keepdim=True))
    return leading_KD * largest_K1.sign()


def normalise(hidden: Tensor) -> Tensor:
    """Return states over their root mean square, float32."""
    values = hidden.float()
    return values / root_mean_square(values)


def root_mean_square(values: Tensor) -> Tensor:
    """Return [..., 1] float32 of float32 states."""
    return (torch.linalg.vector_norm(values, dim=-1, keepdim=True).square() / values.shape[-1] + RMS_EPSILON).sqrt()


def encode_states(
    hidden_SBTD: Tensor, calibration: dict[str, Tensor], format: Format, pool_BPT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (states in the store's dtype, their root mean squares [S, B, T] float32).

    `calibration` is that of `loader.collate.calibration_tensors`, on the device of the states. `pool_BPT` are weights
    with which the normalised states are pooled.
    """
    factor_SD1 = 1 / calibration["deviation"][..., None]
    if format.rank:
        factor_SDK = calibration["basis"].transpose(1, 2) * factor_SD1 / calibration["scale"][:, None]
        shift = (calibration["mean"][:, None] @ factor_SDK)[:, 0]
    else:
        factor_SD = factor_SD1[..., 0] / calibration["scale"]
        shift = calibration["mean"] * factor_SD
    stored, norms = [], []
    for state, hidden_BTD in enumerate(hidden_SBTD):  # one at a time: all of them in float32 would not fit a cache
        values = hidden_BTD.float()
        rms = root_mean_square(values)
        # the equations of store/schema.py, whose linear parts are done in the order that touches the fewest values
        y = (values @ factor_SDK[state] if format.rank else values * factor_SD[state]).div_(rms)
        if pool_BPT is not None:
            y = pool_BPT @ y
        y.sub_(shift[state])
        if format.dtype == "int8":
            y = y.round_().clamp_(-127, 127).to(torch.int8)
        stored.append(y.bfloat16() if format.dtype == "bf16" else y)
        norms.append(rms[..., 0])
    return torch.stack(stored), torch.stack(norms)
