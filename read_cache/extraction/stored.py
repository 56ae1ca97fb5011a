"""A stack's outputs in the format of a store, still padded and on the backbone's device."""

import torch
from torch import Tensor

from read_cache.backbones.base import Backbone, StackTrace, Trace
from read_cache.extraction.calibrate import StateEncoder
from read_cache.store.schema import AttentionDtype, Format
from read_cache.store.spec import StackSpec


class NonFiniteError(ValueError):
    """The backbone computed a state that is infinite or not a number."""


def stored_arrays(
    backbone: Backbone, trace: Trace, format: Format, encoder: StateEncoder | None = None
) -> dict[str, Tensor]:
    """Return the activations of a padded batch by array name, as `store/schema.py` names them.

    Stacks that are not in the trace are left out.

    Shapes: `hidden` [state, B, S, D or component]; `rms` [state, B, S]; `final` [1, B, S, D]; `raw_rms` [1, B, S];
    attention weights [layer, (head,) B, to, from]. `encoder` encodes the first stack of a calibrated format.

    Raises NonFiniteError.
    """
    arrays: dict[str, Tensor] = {}
    stacks = backbone.stacks
    for stack in stacks:
        if stack.name not in trace:
            continue
        first = stack is stacks[0]
        own = stored_stack(stack, trace[stack.name], format, encoder if first else None, backbone.final_norm_epsilon)
        if encoder is not None and first and len(stacks) == 1:
            own[f"{stack.name}/final"] = _exact(trace[stack.name].hidden[-1], format)[None]
        arrays |= own
    return arrays


def stored_stack(
    stack: StackSpec, trace: StackTrace, format: Format, encoder: StateEncoder | None, epsilon: float
) -> dict[str, Tensor]:
    """Return one stack's arrays by name. Raises NonFiniteError."""
    name = stack.name
    hidden = kept_states(stack, trace, format)
    arrays = {}
    if encoder is None:
        arrays[f"{name}/hidden"] = _exact(hidden, format)
    else:
        arrays[f"{name}/hidden"], arrays[f"{name}/rms"] = encoder(hidden)
    if trace.raw_last is not None:
        arrays[f"{name}/raw_rms"] = (trace.raw_last.float().square().mean(-1) + epsilon).sqrt()[None]
    for kind in ("self_attention", "cross_attention"):
        layers = getattr(trace, kind)
        if format.attention != "none" and layers is not None:
            kept = [layers[layer - 1] for layer in format.array_layers(f"{name}/{kind}")]
            arrays[f"{name}/{kind}"] = stored_attention(kept, format)
    return arrays


def kept_states(stack: StackSpec, trace: StackTrace, format: Format) -> Tensor:
    """Return the states that the store keeps, [state, B, S, D], as the backbone computed them. Raises NonFiniteError.

    The check reads the smallest and largest value of each state, which is far cheaper than a test of every value.
    """
    layers = format.array_layers(f"{stack.name}/hidden")
    hidden = torch.stack([trace.hidden[layer] for layer in layers])
    extremes = torch.stack([torch.stack(torch.aminmax(state)) for state in hidden])
    for layer, finite in zip(layers, extremes.isfinite().all(1).tolist(), strict=True):
        if not finite:
            raise NonFiniteError(f"{stack.name} hidden states are not finite at layer {layer}")
    return hidden


def stored_attention(layers: list[Tensor], format: Format) -> Tensor:
    """Return attention weights [layer, (head,) B, to, from]; means over heads are taken in float32."""
    if format.attention == "mean":
        weights = torch.stack([layer.mean(1, dtype=torch.float32) for layer in layers])
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
