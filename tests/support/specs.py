"""Backbones as a store remembers them, of every arrangement of stacks, and formats of their activations."""

from typing import Any

from read_cache.store.schema import Format
from read_cache.store.spec import BackboneSpec, StackSpec

SHAPE: dict[str, Any] = {"width": 32, "heads": 4}
ENCODER = StackSpec(name="encoder", layers=3, final_norm=True, **SHAPE)
DECODER = StackSpec(name="decoder", layers=2, causal=True, attends_to="encoder", final_norm=True, **SHAPE)
BERT = StackSpec(name="encoder", layers=3, segments=True, post_norm=True, **SHAPE)
CAUSAL = StackSpec(name="decoder", layers=3, causal=True, final_norm=True, **SHAPE)
STACKS = {"t5": (ENCODER, DECODER), "bert": (BERT,), "causal": (CAUSAL,)}
"""By arrangement."""


def backbone_spec(arrangement: str, **changes: Any) -> BackboneSpec:
    """Return a backbone of an arrangement of stacks."""
    values: dict[str, Any] = {
        "name": "tiny", "revision": "local", "digest": "d", "family": arrangement, "parameters": 1000,
        "stacks": STACKS[arrangement], "language_model": arrangement != "bert",
    }  # fmt: skip
    return BackboneSpec(**values | changes)


def all_layers(arrangement: str, **changes: Any) -> Format:
    """Return the format of all layers of an arrangement, bf16 with mean attention unless `changes` say otherwise."""
    layers = {stack.name: tuple(range(1, stack.layers + 1)) for stack in STACKS[arrangement]}
    values: dict[str, Any] = {
        "dtype": "bf16", "attention": "mean", "attention_dtype": "fp16", "rank": 0, "layers": layers,
    }  # fmt: skip
    return Format(**values | changes)
