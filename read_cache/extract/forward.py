"""The backbone over one batch of examples: every layer's states and attention weights, ragged, in the store's form."""

import dataclasses
from typing import Any

import numpy as np
import torch

from read_cache.backbones.t5 import Backbone
from read_cache.extract.calibrate import encode
from read_cache.store.quantization import Calibration
from read_cache.store.schema import AttentionDtype, Form


@dataclasses.dataclass(frozen=True)
class Example:
    """What the backbone is run on: encoder tokens, and the decoder's tree of nodes (parents before children)."""

    input_ids: np.ndarray
    node_token: np.ndarray
    node_parent: np.ndarray


@dataclasses.dataclass(frozen=True)
class StackOutput:
    """One stack's outputs in the store's dtypes. A row is an example for the encoder, a path for the decoder."""

    hidden: np.ndarray
    """[state, row, position, width or component]; the last state is after the final norm."""
    rms: np.ndarray | None
    """[state, row, position] float32, where states are stored by a calibration."""
    attention: np.ndarray | None
    """[layer, (head,) row, to, from]: self-attention."""
    cross_attention: np.ndarray | None
    """[layer, (head,) row, to, from]: the decoder's attention to the encoder."""


@dataclasses.dataclass(frozen=True)
class BackboneOutput:
    """What transformers gave for a batch: hidden states and attention weights of each stack."""

    encoder: Any
    decoder: Any
    paths: list[tuple[int, np.ndarray]]
    """(row of the encoder, its nodes) of each row of the decoder."""


@torch.inference_mode()
def run_backbone(backbone: Backbone, examples: list[Example], attention: bool) -> BackboneOutput:
    """One padded batch through both stacks."""
    wanted = {"output_hidden_states": True, "output_attentions": attention}
    ids, mask = pad_ids([example.input_ids for example in examples], backbone.device)
    encoder_out = backbone.encoder(input_ids=ids, attention_mask=mask, **wanted)

    # The decoder runs over every path from the root to a leaf; row `source[r]` of the encoder belongs to path r.
    paths = [(row, path) for row, example in enumerate(examples) for path in node_paths(example.node_parent)]
    source = torch.tensor([row for row, _ in paths], device=backbone.device)
    path_ids, path_mask = pad_ids([examples[row].node_token[path] for row, path in paths], backbone.device)
    decoder_out = backbone.decoder(
        input_ids=path_ids,
        attention_mask=path_mask,
        encoder_hidden_states=encoder_out.last_hidden_state.index_select(0, source),
        encoder_attention_mask=mask.index_select(0, source),
        use_cache=False,
        **wanted,
    )
    return BackboneOutput(encoder_out, decoder_out, paths)


@torch.inference_mode()
def example_activations(
    backbone: Backbone, examples: list[Example], form: Form, calibration: Calibration | None = None
) -> list[dict[str, np.ndarray]]:
    """Run one padded batch; give each example's activations by array name, as `store/schema.py` lays them out.

    Each is [state or layer, (head,) places, (width)]; bf16 states are uint16 bits. Raises NonFiniteError.
    """
    out = run_backbone(backbone, examples, form.attention != "none")
    encoder = _stored_output("encoder", out.encoder, form, calibration)
    decoder = _stored_output("decoder", out.decoder, form, None)
    own_paths: list[list[tuple[int, np.ndarray]]] = [[] for _ in examples]
    for path_row, (row, path) in enumerate(out.paths):
        own_paths[row].append((path_row, path))
    return [
        _encoder_arrays(encoder, row, len(example.input_ids))
        | _decoder_arrays(decoder, own_paths[row], len(example.node_token), len(example.input_ids))
        for row, example in enumerate(examples)
    ]


def node_paths(parent: np.ndarray) -> list[np.ndarray]:
    """The nodes from the root to each leaf, root first."""
    paths = []
    for leaf in sorted(set(range(len(parent))) - set(parent.tolist())):
        path = [leaf]
        while parent[path[-1]] >= 0:
            path.append(int(parent[path[-1]]))
        paths.append(np.array(path[::-1]))
    return paths


def _encoder_arrays(encoder: StackOutput, row: int, length: int) -> dict[str, np.ndarray]:
    arrays = {"encoder/hidden": encoder.hidden[:, row, :length]}
    if encoder.rms is not None:
        arrays["encoder/rms"] = encoder.rms[:, row, :length]
    if encoder.attention is not None:
        arrays["encoder/attention"] = _flatten_pairs(encoder.attention[..., row, :length, :length])
    return arrays


def _decoder_arrays(
    decoder: StackOutput, paths: list[tuple[int, np.ndarray]], nodes: int, length: int
) -> dict[str, np.ndarray]:
    """Gather one example's nodes from its paths; a node that several paths share is taken from the first."""
    places: dict[int, tuple[int, int, np.ndarray]] = {}
    for row, path in paths:
        for position, node in enumerate(path.tolist()):
            places.setdefault(node, (row, position, path[: position + 1]))
    rows = np.array([places[node][0] for node in range(nodes)])
    positions = np.array([places[node][1] for node in range(nodes)])
    arrays = {"decoder/hidden": decoder.hidden[:, rows, positions]}
    if decoder.attention is not None and decoder.cross_attention is not None:
        own = np.zeros((*decoder.attention.shape[:-3], nodes, nodes), dtype=decoder.attention.dtype)
        for node, (row, position, ancestors) in places.items():
            own[..., node, ancestors] = decoder.attention[..., row, position, : position + 1]
        arrays["decoder/self_attention"] = _flatten_pairs(own)
        arrays["decoder/cross_attention"] = _flatten_pairs(decoder.cross_attention[..., rows, positions, :length])
    return arrays


def _flatten_pairs(weights: np.ndarray) -> np.ndarray:
    return weights.reshape(*weights.shape[:-2], -1)


class NonFiniteError(ValueError):
    """The backbone gave a state that is infinite or not a number."""


def _stored_output(stack: str, out: object, form: Form, calibration: Calibration | None) -> StackOutput:
    """A stack's output in the store's form."""
    hidden, rms = stored_states(stack, out, form, calibration)
    own, cross = (
        stored_attention(getattr(out, name, None), form, f"{stack}/attention")
        for name in ("attentions", "cross_attentions")
    )
    bits = hidden.view(torch.int16).cpu().numpy().view(np.uint16) if hidden.dtype == torch.bfloat16 else None
    return StackOutput(
        hidden.cpu().numpy() if bits is None else bits,
        None if rms is None else rms.cpu().numpy(),
        None if own is None else own.cpu().numpy(),
        None if cross is None else cross.cpu().numpy(),
    )


def stored_states(
    stack: str, out: Any, form: Form, calibration: Calibration | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A stack's states in the store's form, [state, row, position, width or component], and their rms if calibrated.

    Raises NonFiniteError.
    """
    layers = form.layers(f"{stack}/hidden")
    hidden = torch.stack([out.hidden_states[layer] for layer in layers])
    extremes = torch.stack([torch.stack(torch.aminmax(state)) for state in hidden])  # a twentieth of a sum's time
    for layer, finite in zip(layers, extremes.isfinite().all(1).tolist(), strict=True):
        if not finite:
            raise NonFiniteError(f"{stack} hidden states are not finite at layer {layer}")
    if calibration is not None:
        return encode(hidden, calibration, form)
    return (hidden.float() if form.dtype == "fp32" else hidden.bfloat16()), None


def stored_attention(layers: tuple[torch.Tensor, ...] | None, form: Form, array: str) -> torch.Tensor | None:
    """[layer, (head,) row, to, from]; the mean over heads is taken in float32, in the cache: a row at a time."""
    if not layers:
        return None
    kept = [layers[layer - 1] for layer in form.layers(array)]
    if form.attention == "mean":
        kept = [torch.stack([row.float().mean(0) for row in layer]) for layer in kept]
    else:
        kept = [layer.transpose(0, 1) for layer in kept]
    return torch.stack([quantise_weights(weights, form.attention_dtype) for weights in kept])


def quantise_weights(weights: torch.Tensor, dtype: AttentionDtype) -> torch.Tensor:
    """Attention weights in the store's dtype; uint8 holds round(255 sqrt(weight)), so that small ones keep digits."""
    if dtype == "uint8":
        return (weights.float().sqrt() * 255).round().to(torch.uint8)
    return weights.float() if dtype == "fp32" else weights.half()


def pad_ids(sequences: list[np.ndarray], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, mask), [rows, longest] int64 each; padding is 0 in both."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(s.astype(np.int64)) for s in sequences], batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids.to(device), mask.to(device)
