"""A backbone's outputs in the format of a store, still padded and on the backbone's device.

The equations of int8 and low-rank formats are in `store/schema.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones.base import Backbone, StackTrace, Trace
from read_cache.errors import UserError
from read_cache.store.layout import pad_integers, plan_slices
from read_cache.store.schema import (
    ALL_TOKENS,
    DEVIATION_FLOOR,
    FIRST_TOKEN,
    RMS_EPSILON,
    AttentionDtype,
    Calibration,
    Format,
)
from read_cache.store.spec import StackSpec

HEADROOM = 1.25
"""int8 reaches this far beyond the largest value seen in calibration; larger values are clipped."""


def calibrate(hidden_SND: np.ndarray, format: Format) -> Calibration:
    """Fit a calibration to some tokens' states, [L+1, N, D] float32. The same states give the same calibration."""
    means, deviations, scales, bases = [], [], [], []
    for hidden_ND in hidden_SND:
        x_ND = normalise(torch.from_numpy(hidden_ND))[0].double()
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


def normalise(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return (states over their root mean square, the root mean square [..., 1]), float32."""
    values = hidden.float()
    rms = (values.square().mean(-1, keepdim=True) + RMS_EPSILON).sqrt()
    return values / rms, rms


def calibration_tensors(calibration: Calibration | None, device: str) -> dict[str, Tensor]:
    """Return the calibration's arrays on a device, by name; none where whole states are stored."""
    arrays = calibration.arrays() if calibration else {}
    return {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}


def encode_states(
    hidden_SBTD: Tensor, calibration: dict[str, Tensor], format: Format, pool_BPT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (states in the store's dtype, their root mean squares [S, B, T] float32).

    `calibration` is that of `calibration_tensors`, on the device of the states. `pool_BPT` are weights
    with which the normalised states are pooled.
    """
    stored, norms = [], []
    for state, hidden_BTD in enumerate(hidden_SBTD):  # one at a time: all of them in float32 would not fit a cache
        x_BTD, rms = normalise(hidden_BTD)
        if pool_BPT is not None:
            x_BTD = pool_BPT @ x_BTD
        y = (x_BTD - calibration["mean"][state]) / calibration["deviation"][state]
        if format.rank:
            y = y @ calibration["basis"][state].T
        if format.dtype == "int8":
            y = (y / calibration["scale"][state]).round_().clamp_(-127, 127).to(torch.int8)
        stored.append(y.bfloat16() if format.dtype == "bf16" else y)
        norms.append(rms[..., 0])
    return torch.stack(stored), torch.stack(norms)


def stored_arrays(
    backbone: Backbone,
    trace: Trace,
    format: Format,
    calibration: dict[str, Tensor],
    pool: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the activations of a padded batch by array name, as `store/schema.py` names them.

    Stacks that are not in the trace are left out. `calibration` is that of `calibrate.calibration_tensors`. `pool`
    holds the weights, [B, P, S] float32, with which a stack's states are pooled: S is P in its `hidden` and `final`.

    Shapes: `hidden` [state, B, S, D or component]; `rms` [state, B, S]; `final` [1, B, S, D]; `raw_rms` [1, B, S];
    attention weights [layer, (head,) B, to, from].

    Raises UserError if a state is not finite.
    """
    arrays: dict[str, Tensor] = {}
    for stack in backbone.stacks:
        name = stack.name
        if name not in trace:
            continue
        outputs, weights_BPS = trace[name], (pool or {}).get(name)
        hidden, calibrated = kept_states(stack, outputs, format), bool(calibration) and name == format.first
        if calibrated:
            arrays[f"{name}/hidden"], arrays[f"{name}/rms"] = encode_states(hidden, calibration, format, weights_BPS)
        elif weights_BPS is not None:
            pooled = [weights_BPS @ normalise(state)[0] for state in hidden]
            arrays[f"{name}/hidden"] = _exact(torch.stack(pooled), format)
        else:
            arrays[f"{name}/hidden"] = _exact(hidden, format)
        if name == backbone.stacks[-1].name and (calibrated or weights_BPS is not None):
            final = outputs.hidden[-1] if weights_BPS is None else weights_BPS @ outputs.hidden[-1].float()
            arrays[f"{name}/final"] = _exact(final, format)[None]
        if outputs.raw_last is not None:
            mean_square = outputs.raw_last.float().square().mean(-1)
            arrays[f"{name}/raw_rms"] = (mean_square + backbone.final_norm_epsilon).sqrt()[None]
        for kind in ("self_attention", "cross_attention"):
            layers = getattr(outputs, kind)
            if format.attention != "none" and layers is not None:
                kept = [layers[layer - 1] for layer in format.array_layers(f"{name}/{kind}")]
                arrays[f"{name}/{kind}"] = stored_attention(kept, format)
    return arrays


def kept_states(stack: StackSpec, outputs: StackTrace, format: Format) -> Tensor:
    """Return the states that the store keeps, [state, B, S, D], in the backbone's dtype.

    Raises UserError if one is not finite. The check reads the smallest and largest value of each state, which is far
    cheaper than a test of every value.
    """
    layers = format.array_layers(f"{stack.name}/hidden")
    hidden = torch.stack([outputs.hidden[layer] for layer in layers])
    extremes = torch.stack([torch.stack(torch.aminmax(state)) for state in hidden])
    for layer, finite in zip(layers, extremes.isfinite().all(1).tolist(), strict=True):
        if not finite:
            raise UserError(
                f"{stack.name} hidden states are not finite at layer {layer}, computed in {hidden.dtype}: compute in "
                "float32 (compute_dtype=fp32 in an extraction), or check the model's weights"
            )
    return hidden


def stored_attention(layers: list[Tensor], format: Format) -> Tensor:
    """Return attention weights [layer, (head,) B, to, from]; means over heads are taken in float32."""
    if format.attention == "mean":
        weights = torch.stack([layer.float().mean(1) for layer in layers])  # faster than `mean(dtype=…)` on bf16
    else:
        weights = torch.stack([layer.transpose(0, 1) for layer in layers])
    return quantise_weights(weights, format.attention_dtype)


def quantise_weights(weights: Tensor, dtype: AttentionDtype) -> Tensor:
    """Return attention weights in the store's dtype; uint8 holds round(255 sqrt(weight)): small ones keep digits."""
    if dtype == "uint8":
        return (weights.float().sqrt() * 255).round().to(torch.uint8)
    return weights.float() if dtype == "fp32" else weights.half()


def _exact(hidden: Tensor, format: Format) -> Tensor:
    return hidden.float() if format.dtype == "fp32" else hidden.bfloat16()


def state_positions(kind: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return an example's plan array `readout` or `pooled`, [entries] int64. `arrays` are its other arrays by name."""
    if kind == "readout":
        return np.flatnonzero((arrays["trie"] >= 0) | (arrays["target"] >= 0))
    texts = np.unique(arrays.get("segment", [-1]))
    return np.array([FIRST_TOKEN, ALL_TOKENS, *texts[texts >= 0]])


def at_readout(outputs: StackTrace, plan: Mapping[str, np.ndarray], stack: str, rows: Sequence[int]) -> StackTrace:
    """Return the outputs of some examples at their readout positions, padded with the first of them."""
    index_BP = torch.from_numpy(pad_integers(plan_slices(plan, f"{stack}/readout", rows, "readout"), 0))

    def gathered(values_BSD: Tensor) -> Tensor:
        index = index_BP.to(values_BSD.device)[..., None].expand(-1, -1, values_BSD.shape[-1])
        return values_BSD.gather(1, index)

    raw_last = None if outputs.raw_last is None else gathered(outputs.raw_last)
    return dataclasses.replace(outputs, hidden=[gathered(hidden) for hidden in outputs.hidden], raw_last=raw_last)


def pooling_weights(plan: Mapping[str, np.ndarray], stack: str, rows: Sequence[int], real_BS: Tensor) -> Tensor:
    """Return each token's share of the pooled states of some examples, [B, P, S] float32."""
    entry_BP1 = pad_integers(plan_slices(plan, f"{stack}/pooled", rows, "pooled"), FIRST_TOKEN)[..., None]
    real_B1S, first_S = real_BS.cpu().numpy()[:, None], np.arange(real_BS.shape[1]) == 0
    mask_BPS = np.where(entry_BP1 == ALL_TOKENS, real_B1S, (entry_BP1 == FIRST_TOKEN) & first_S)
    if f"{stack}/segment" in plan:
        segment_BS = pad_integers(plan_slices(plan, f"{stack}/segment", rows), -1)
        mask_BPS |= (entry_BP1 >= 0) & (entry_BP1 == segment_BS[:, None])
    weights_BPS = mask_BPS / mask_BPS.sum(-1, keepdims=True, dtype=np.float32)
    return torch.from_numpy(weights_BPS.astype(np.float32)).to(real_BS.device)
