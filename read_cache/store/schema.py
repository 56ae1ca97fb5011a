"""Every array of a store: its axes, dtype and meaning.

A store is a folder with `manifest.json` and `arrays.zarr`, one group per split in it. The flat axes `token`, `pair`,
`node`, `node_pair` and `cross` hold examples one after another, never padded to each other. A *part* is a run of
consecutive examples, and one chunk of every flat axis: part p owns [p*size, (p+1)*size), its tail unused.
Example i lies at `token_offset[i] : token_offset[i] + length[i]` of the token axis, and likewise on the others, where
it takes length², nodes, nodes² and nodes*length places.
"""

import dataclasses
from typing import Literal

SCHEMA_VERSION = 1
Attention = Literal["mean", "heads", "none"]
HiddenDtype = Literal["fp32", "bf16"]
HIDDEN_DTYPES: tuple[HiddenDtype, ...] = ("fp32", "bf16")
ATTENTIONS: tuple[Attention, ...] = ("mean", "heads", "none")
FLAT_AXES = ("token", "pair", "node", "node_pair", "cross")


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


def activation_arrays(dtype: HiddenDtype, attention: Attention) -> tuple[ArraySpec, ...]:
    """The arrays the backbone fills. Attention is fp32 beside fp32 states and fp16 beside bf16 ones."""
    hidden = "float32" if dtype == "fp32" else "uint16"
    weights = "float32" if dtype == "fp32" else "float16"
    heads = ("head",) if attention == "heads" else ()
    averaged = " (mean over heads)" if attention == "mean" else ""
    states = "hidden states: embeddings, then each layer's output, the last after the final norm"
    specs = [
        ArraySpec("encoder/hidden", ("state", "token", "width"), hidden, f"encoder {states}"),
        ArraySpec("decoder/hidden", ("state", "node", "width"), hidden, f"decoder {states}"),
    ]
    if attention != "none":
        meaning = f"attention weights after the softmax{averaged}, [to, from] of each example"
        specs += [
            ArraySpec("encoder/attention", ("layer", *heads, "pair"), weights, f"encoder {meaning}"),
            ArraySpec("decoder/self_attention", ("layer", *heads, "node_pair"), weights, f"decoder self {meaning}"),
            ArraySpec("decoder/cross_attention", ("layer", *heads, "cross"), weights, f"cross {meaning}"),
        ]
    return tuple(specs)


DONE = ArraySpec("done", ("part",), "uint32", "0 until the part is complete; then the crc32c of all its activations")
HEAD_TOKENS = ArraySpec("head/token_ids", ("candidate",), "int64", "tokens the head's rows belong to")
HEAD_WEIGHT = ArraySpec(
    "head/weight",
    ("candidate", "width"),
    "float32",
    "rows of the backbone's output head, times the scale the backbone puts on its input",
)
