"""Every array of a store: its axes, dtype and meaning.

A store is a folder or URL with `manifest.json` and `arrays.zarr`, one group per split in it. The flat axes `token`,
`pair`, `node`, `node_pair` and `cross` hold examples one after another, never padded to each other. A *part* is a run
of consecutive examples, and one shard of every activation array: part p owns [p*size, (p+1)*size) of each flat axis,
its tail unused. Within a shard each layer is a chunk of its own.
Example i lies at `token_offset[i] : token_offset[i] + length[i]` of the token axis, and likewise on the others, where
it takes length², nodes, nodes² and nodes*length places.

What is stored of an encoder state phi, with x = phi / rms(phi), by channel c and state l:

    fp32, bf16        phi itself
    int8              round((x - mean_lc) / (deviation_lc * scale_lc))
    rank k            z = basis_l (x - mean_l) / deviation_l, in k components; int8 stores round(z / scale_l)

so that x = mean + deviation * (scale * stored), or mean + deviation * (basisᵀ (scale * stored)); `encoder/rms` makes
phi of it. The decoder's states are few and differ least between examples: they stay bf16. uint8 attention holds
round(255 sqrt(weight)).
"""

import dataclasses
from typing import Any, Literal

SCHEMA_VERSION = 2
Attention = Literal["mean", "heads", "none"]
Dtype = Literal["fp32", "bf16", "int8"]
AttentionDtype = Literal["fp32", "fp16", "uint8"]
ComputeDtype = Literal["fp32", "bf16"]
DTYPES: tuple[Dtype, ...] = ("fp32", "bf16", "int8")
ATTENTION_DTYPES: tuple[AttentionDtype, ...] = ("fp32", "fp16", "uint8")
COMPUTE_DTYPES: tuple[ComputeDtype, ...] = ("fp32", "bf16")
ATTENTIONS: tuple[Attention, ...] = ("mean", "heads", "none")
NUMPY_DTYPES = {"fp32": "float32", "bf16": "uint16", "int8": "int8", "fp16": "float16", "uint8": "uint8"}
FLAT_AXES = ("token", "pair", "node", "node_pair", "cross")


def with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where records have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


@dataclasses.dataclass(frozen=True)
class Form:
    """In what form activations are stored."""

    dtype: Dtype
    attention: Attention
    attention_dtype: AttentionDtype
    rank: int
    """Components kept of each encoder state; 0 keeps the whole state."""
    encoder_layers: tuple[int, ...]
    """Layers kept, from 1, ascending, the last always among them. State 0, the embeddings, is kept besides."""
    decoder_layers: tuple[int, ...]

    @property
    def calibrated(self) -> bool:
        """Whether the encoder's states are stored by a calibration."""
        return self.dtype == "int8" or self.rank > 0

    def layers(self, array: str) -> tuple[int, ...]:
        """The layers an activation array holds."""
        kept = self.encoder_layers if array.startswith("encoder/") else self.decoder_layers
        return kept if array.endswith("attention") else (0, *kept)


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
        return next((axis for axis in self.axes if axis in FLAT_AXES), None)


PLAN_ARRAYS = (
    ArraySpec("example_id", ("example",), "int64", "row number in the split as the protocol makes it"),
    ArraySpec("label", ("example",), "int32", "label id; -1 for an open target"),
    ArraySpec("score", ("example",), "float32", "gold value for the metric: the label id, or the row's own score"),
    ArraySpec("length", ("example",), "int32", "encoder tokens, eos included"),
    ArraySpec("nodes", ("example",), "int32", "decoder nodes"),
    ArraySpec("token_offset", ("example",), "int64", "first place on the token axis"),
    ArraySpec("pair_offset", ("example",), "int64", "first place on the pair axis"),
    ArraySpec("node_offset", ("example",), "int64", "first place on the node axis"),
    ArraySpec("node_pair_offset", ("example",), "int64", "first place on the node_pair axis"),
    ArraySpec("cross_offset", ("example",), "int64", "first place on the cross axis"),
    ArraySpec("part_start", ("part_edge",), "int64", "part p holds examples part_start[p] : part_start[p + 1]"),
    ArraySpec("input_ids", ("token",), "int32", "encoder tokens"),
    ArraySpec("node_token", ("node",), "int32", "the token fed to the decoder at this node"),
    ArraySpec("node_parent", ("node",), "int32", "the node before it, counted within the example; -1 at the root"),
    ArraySpec("node_trie", ("node",), "int32", "the label trie's node; -1 for an open target"),
    ArraySpec("node_target", ("node",), "int32", "the gold token that follows; -1 off the gold path"),
)


def activation_arrays(form: Form) -> tuple[ArraySpec, ...]:
    """The arrays the backbone fills; the first axis of each is `Form.layers`."""
    exact = NUMPY_DTYPES["fp32" if form.dtype == "fp32" else "bf16"]
    encoder_axis = "component" if form.rank else "width"
    heads = ("head",) if form.attention == "heads" else ()
    averaged = " (mean over heads)" if form.attention == "mean" else ""
    states = "hidden states: embeddings, then each layer's output, the last after the final norm"
    specs = [
        ArraySpec("encoder/hidden", ("state", "token", encoder_axis), NUMPY_DTYPES[form.dtype], f"encoder {states}")
    ]
    if form.calibrated:
        specs.append(ArraySpec("encoder/rms", ("state", "token"), "float32", "root mean square of each encoder state"))
    specs.append(ArraySpec("decoder/hidden", ("state", "node", "width"), exact, f"decoder {states}"))
    if form.attention != "none":
        meaning, weights = (
            f"attention weights after the softmax{averaged}, [to, from]",
            NUMPY_DTYPES[form.attention_dtype],
        )
        specs += [
            ArraySpec("encoder/attention", ("layer", *heads, "pair"), weights, f"encoder {meaning}"),
            ArraySpec("decoder/self_attention", ("layer", *heads, "node_pair"), weights, f"decoder self {meaning}"),
            ArraySpec("decoder/cross_attention", ("layer", *heads, "cross"), weights, f"cross {meaning}"),
        ]
    return tuple(specs)


def calibration_arrays(form: Form) -> tuple[ArraySpec, ...]:
    """What makes states of stored values, one set a store, fixed before the first part is filled."""
    if not form.calibrated:
        return ()
    axis = "component" if form.rank else "width"
    specs = [
        ArraySpec("calibration/mean", ("state", "width"), "float32", "mean of x over the calibration tokens"),
        ArraySpec("calibration/deviation", ("state", "width"), "float32", "standard deviation of x over them"),
        ArraySpec("calibration/scale", ("state", axis), "float32", "what one step of the stored values is worth"),
    ]
    if form.rank:
        meaning = "leading principal directions of (x - mean) / deviation, orthonormal"
        specs.append(ArraySpec("calibration/basis", ("state", "component", "width"), "float32", meaning))
    return tuple(specs)


DONE = ArraySpec(
    "done", ("part",), "uint32", "0 until the part is complete; then the crc32c of the checksums of all its layers"
)
HEAD_TOKENS = ArraySpec("head/token_ids", ("candidate",), "int64", "tokens the head's rows belong to")
HEAD_WEIGHT = ArraySpec(
    "head/weight",
    ("candidate", "width"),
    "float32",
    "rows of the backbone's output head, times the scale the backbone puts on its input",
)
