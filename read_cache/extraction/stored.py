"""A backbone's outputs in the format of a store, still padded and on the backbone's device."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones.base import Backbone, StackTrace, Trace
from read_cache.errors import UserError
from read_cache.extraction.calibrate import encode_states, normalise
from read_cache.store.layout import pad_integers, plan_slices
from read_cache.store.schema import ALL_TOKENS, FIRST_TOKEN, AttentionDtype, Format
from read_cache.store.spec import StackSpec


def stored_arrays(
    backbone: Backbone,
    trace: Trace,
    format: Format,
    calibration: dict[str, Tensor],
    pool: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the activations of a padded batch by array name, as `store/schema.py` names them.

    Stacks that are not in the trace are left out. `calibration` is that of `loader.collate.calibration_tensors`. `pool`
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
            pooled = [weights_BPS @ normalise(state) for state in hidden]
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
