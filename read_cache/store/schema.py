"""Every array of a store: its axes, dtype and meaning. The arrays follow from the backbone's stacks.

A store is a folder or URL with `manifest.json` and `arrays.zarr`, one group per split in it. The flat axes of a stack S
(`S_token`, `S_pair`, `S_cross`) hold examples one after another, without padding. A *part* is a run of consecutive
examples, and one shard of every activation array: part p owns [p*size, (p+1)*size) of each flat axis, its tail unused.
Within a shard each layer is a chunk of its own. Example i takes n positions on `S_token`, where n is its `S/length`;
n² entries on `S_pair`, or n(n+1)/2 if the stack is causal (the lower triangle: weight [to, from <= to] lies at
to(to+1)/2 + from); and n*m on `S_cross`, where m is its length in the stack that S attends to.

States lie on `S_token`, or on an axis with fewer entries. `S_readout` holds the states at the positions of `S/readout`.
`S_pooled` holds means of x over tokens, which `S/pooled` describes; `S/final` holds the same means of the last phi.

How hidden states phi are stored, with x = phi / rms(phi), by channel c and state l:

    fp32, bf16        phi itself
    int8              round((x - mean_lc) / (deviation_lc * scale_lc))
    rank k            z = basis_l (x - mean_l) / deviation_l, in k components; int8 stores round(z / scale_l)

so that x = mean + deviation * (scale * stored), or mean + deviation * (basisᵀ (scale * stored)); `S/rms` turns x into
phi. A pooled x is stored as it is in fp32 and bf16. int8 and rank apply to the first stack only; the final states that
a head reads are stored whole in `S/final`.
uint8 attention holds round(255 sqrt(weight)).

The raw output of a stack's last block, before its final norm, is hidden[last] / final_norm * raw_rms.
"""

import dataclasses
from typing import Literal

import numpy as np

from read_cache.settings import Record
from read_cache.store.spec import BackboneSpec, StackSpec

SCHEMA_VERSION = 3
Attention = Literal["mean", "heads", "none"]
Dtype = Literal["fp32", "bf16", "int8"]
AttentionDtype = Literal["fp32", "fp16", "uint8"]
ComputeDtype = Literal["fp32", "bf16"]
Positions = Literal["all", "readout", "pooled"]
NUMPY_DTYPES = {"fp32": "float32", "bf16": "uint16", "int8": "int8", "fp16": "float16", "uint8": "uint8"}
FLAT_AXES = ("token", "pair", "cross", "readout", "pooled")
FIRST_TOKEN, ALL_TOKENS = -1, -2
"""Values of `S/pooled` that are no number of a text."""
RMS_EPSILON = 1e-6
"""Added to the mean square of a state before its root is taken."""
DEVIATION_FLOOR = 0.02
"""bf16 leaves 0.002 of noise on a state of unit size: a channel's deviation below this is not scaled up."""


class Format(Record):
    """The storage format of activations."""

    dtype: Dtype
    attention: Attention
    attention_dtype: AttentionDtype
    rank: int
    """Components kept of each hidden state of the first stack; 0 keeps whole states."""
    layers: dict[str, tuple[int, ...]]
    """By stack: layers kept, from 1, ascending, the last always among them. State 0, the embeddings, is kept too."""
    positions: Positions = "all"
    """States at all positions, at the readout positions, or pooled over each stack that is not causal."""

    @property
    def calibrated(self) -> bool:
        """Return True if the first stack's states are stored by a calibration."""
        return self.dtype == "int8" or self.rank > 0

    @property
    def first(self) -> str:
        """The first stack: the one that a calibration applies to."""
        return next(iter(self.layers))

    def state_axis(self, causal: bool) -> str:
        """Return the kind of flat axis that the states of a stack lie on: `token`, `readout` or `pooled`."""
        return "token" if self.positions == "all" or (self.positions == "pooled" and causal) else self.positions

    def array_layers(self, array: str) -> tuple[int, ...]:
        """Return the numbers of the states (0 = embeddings) or layers on the first axis of an activation array."""
        stack, _, name = array.partition("/")
        kept = self.layers[stack]
        if name in ("final", "raw_rms"):
            return kept[-1:]
        return kept if name.endswith("attention") else (0, *kept)


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One array of a split."""

    name: str
    axes: tuple[str, ...]
    dtype: str
    """numpy's name; bfloat16 bits are stored as uint16, with the attribute `bits_of`."""
    meaning: str

    @property
    def flat_axis(self) -> str | None:
        """The axis along which parts lie, if the array has one."""
        return next((axis for axis in self.axes if axis.rpartition("_")[2] in FLAT_AXES and "_" in axis), None)


def flat_axes(stack: StackSpec, format: Format) -> tuple[str, ...]:
    """Return the names of a stack's flat axes."""
    kinds = dict.fromkeys(("token", "pair", *(("cross",) if stack.attends_to else ()), format.state_axis(stack.causal)))
    return tuple(f"{stack.name}_{kind}" for kind in kinds)


def plan_arrays(spec: BackboneSpec, format: Format) -> tuple[ArraySpec, ...]:
    """Return the arrays of a split that are known before the backbone runs."""
    specs = [
        ArraySpec("example_id", ("example",), "int64", "row number in the split as the protocol makes it"),
        ArraySpec("label", ("example",), "int32", "label id; -1 for an open target"),
        ArraySpec("score", ("example",), "float32", "gold value for the metric: the label id, or the row's own score"),
        ArraySpec("part_start", ("part_edge",), "int64", "part p holds examples part_start[p] : part_start[p + 1]"),
    ]
    for stack in spec.stacks:
        name, token = stack.name, (f"{stack.name}_token",)
        specs.append(ArraySpec(f"{name}/length", ("example",), "int32", f"{name} positions"))
        for axis in flat_axes(stack, format):
            kind = axis.removeprefix(f"{name}_")
            meaning = f"the example's first index on the axis {axis}"
            specs.append(ArraySpec(f"{name}/{kind}_offset", ("example",), "int64", meaning))
        specs.append(ArraySpec(f"{name}/token", token, "int32", "token id at this position"))
        if stack.segments:
            specs.append(ArraySpec(f"{name}/token_type", token, "int8", "token type id that the backbone is given"))
            meaning = "number of the text that the token belongs to; -1 for special tokens"
            specs.append(ArraySpec(f"{name}/segment", token, "int8", meaning))
        if spec.language_model and name == spec.readout:
            meaning = "index of the position before this one within the example; -1 at the root"
            specs.append(ArraySpec(f"{name}/parent", token, "int32", meaning))
            specs.append(ArraySpec(f"{name}/trie", token, "int32", "node of the label trie; -1 for an open target"))
            meaning = "gold token that follows; -1 off the gold path"
            specs.append(ArraySpec(f"{name}/target", token, "int32", meaning))
        if (kind := format.state_axis(stack.causal)) != "token":
            specs.append(ArraySpec(f"{name}/{kind}_length", ("example",), "int32", f"entries on {name}_{kind}"))
            specs.append(ArraySpec(f"{name}/{kind}", (f"{name}_{kind}",), "int32", STATE_POSITIONS[kind]))
    return tuple(specs)


def activation_arrays(spec: BackboneSpec, format: Format) -> tuple[ArraySpec, ...]:
    """Return the arrays that the backbone fills; the first axis of each is `Format.array_layers`."""
    specs = []
    exact = NUMPY_DTYPES["fp32" if format.dtype == "fp32" else "bf16"]
    heads = ("head",) if format.attention == "heads" else ()
    averaged = ", mean over heads" if format.attention == "mean" else ""
    for stack in spec.stacks:
        name, calibrated = stack.name, format.calibrated and stack.name == format.first
        kind = format.state_axis(stack.causal)
        states = "pooled normalised states" if kind == "pooled" else "hidden states"
        meaning = f"{states}: embeddings, then each layer's output, the last after the final norm"
        axes = ("state", f"{name}_{kind}", "component" if calibrated and format.rank else "width")
        specs.append(ArraySpec(f"{name}/hidden", axes, NUMPY_DTYPES[format.dtype] if calibrated else exact, meaning))
        if calibrated and kind != "pooled":
            specs.append(ArraySpec(f"{name}/rms", axes[:2], "float32", "root mean square of each hidden state"))
        if (calibrated or kind == "pooled") and name == spec.readout:
            axes = ("last", f"{name}_{kind}", "width")
            specs.append(ArraySpec(f"{name}/final", axes, exact, "last hidden states, whole: what a head reads"))
        if stack.final_norm and kind != "pooled":
            meaning = "root mean square of the last block's raw output, as its final norm computes it"
            specs.append(ArraySpec(f"{name}/raw_rms", ("last", f"{name}_{kind}"), "float32", meaning))
        if format.attention == "none":
            continue
        weights, meaning = NUMPY_DTYPES[format.attention_dtype], f"attention weights after the softmax{averaged}"
        triangle = ", lower triangle" if stack.causal else ""
        axes = ("layer", *heads, f"{name}_pair")
        specs.append(ArraySpec(f"{name}/self_attention", axes, weights, f"self-{meaning}, [to, from]{triangle}"))
        if stack.attends_to:
            axes = ("layer", *heads, f"{name}_cross")
            meaning = f"cross-{meaning}, [to, from the {stack.attends_to}]"
            specs.append(ArraySpec(f"{name}/cross_attention", axes, weights, meaning))
    return tuple(specs)


def shared_arrays(spec: BackboneSpec, format: Format) -> tuple[ArraySpec, ...]:
    """Return the arrays that belong to no split, fixed before the first part is filled."""
    specs = []
    if spec.language_model:
        specs += [HEAD_TOKENS, HEAD_WEIGHT]
    for stack in spec.stacks:
        if stack.final_norm:
            meaning = f"weight of the norm after the {stack.name}'s last block"
            specs.append(ArraySpec(f"final_norm/{stack.name}", ("width",), "float32", meaning))
    return (*specs, *calibration_arrays(format))


def calibration_arrays(format: Format) -> tuple[ArraySpec, ...]:
    """Return the arrays that turn stored values of the first stack back into states; none without a calibration."""
    if not format.calibrated:
        return ()
    axis = "component" if format.rank else "width"
    specs = [
        ArraySpec("calibration/mean", ("state", "width"), "float32", "mean of x over the calibration tokens"),
        ArraySpec("calibration/deviation", ("state", "width"), "float32", "standard deviation of x over them"),
        ArraySpec("calibration/scale", ("state", axis), "float32", "size of one step of the stored values"),
    ]
    if format.rank:
        meaning = "leading principal directions of (x - mean) / deviation, orthonormal"
        specs.append(ArraySpec("calibration/basis", ("state", "component", "width"), "float32", meaning))
    return tuple(specs)


STATE_POSITIONS = {
    "readout": "index within the example of the position whose states these are",
    "pooled": "number of the text whose tokens are pooled; -1: the first token alone, -2: all tokens",
}
DONE = ArraySpec(
    "done",
    ("part", "mark_and_checksums"),
    "uint32",
    "0 until the part is complete; then a mark that is never 0, and the crc32c of every layer of every array in turn",
)
HEAD_TOKENS = ArraySpec("head/token_ids", ("candidate",), "int64", "tokens that the head's rows belong to")
HEAD_WEIGHT = ArraySpec(
    "head/weight",
    ("candidate", "width"),
    "float32",
    "rows of the backbone's output head, times the scale that the backbone puts on its input",
)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The `calibration/…` arrays of `store/schema.py`, float32: L+1 states kept, D channels, k components."""

    mean: np.ndarray
    """[L+1, D]"""
    deviation: np.ndarray
    """[L+1, D]"""
    scale: np.ndarray
    """[L+1, D], or [L+1, k] where states are projected."""
    basis: np.ndarray | None = None
    """[L+1, k, D]; None where whole states are stored."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, without those that are None."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def of(self, states: slice | list[int]) -> "Calibration":
        """Return the calibration of some states only."""
        return Calibration(**{name: value[states] for name, value in self.arrays().items()})
