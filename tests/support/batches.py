"""Random batches of cached activations, and the shapes of backbones that they are of."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from read_cache.loader.batch import Batch, Positions, StackBatch, Targets, rms_norm
from read_cache.networks.base import NetworkShape, StackShape

WIDTH, HEADS = 20, 4


def stack_shape(name: str, layers: int, width: int = WIDTH, heads: int = HEADS, **changes: object) -> StackShape:
    """One stack with all its layers."""
    numbers = tuple(range(1, layers + 1))
    return StackShape(name=name, width=width, heads=heads, layers=numbers, depth=layers, **changes)  # type: ignore[arg-type]


def t5_shape(encoder: int = 3, decoder: int = 2, width: int = WIDTH, heads: int = HEADS) -> NetworkShape:
    """An encoder, and a causal decoder that attends to it."""
    stacks = stack_shape("encoder", encoder, width, heads), stack_shape("decoder", decoder, width, heads)
    return NetworkShape((stacks[0], dataclasses.replace(stacks[1], attends_to="encoder", causal=True)))


def bert_shape(layers: int = 3, width: int = WIDTH, heads: int = HEADS) -> NetworkShape:
    """One stack."""
    return NetworkShape((stack_shape("encoder", layers, width, heads, post_norm=True),))


def causal_shape(layers: int = 3) -> NetworkShape:
    """One causal stack."""
    return NetworkShape((stack_shape("decoder", layers, causal=True),))


def random_batch(
    shape: NetworkShape, attention: str = "mean", lengths: dict[str, list[int]] | None = None, seed: int = 0
) -> Batch:
    """Normalised states and attention weights whose rows sum to one, two examples of five tokens and two nodes.

    Padding is zero, and no real position attends to it.
    """
    g = torch.Generator().manual_seed(seed)
    lengths = lengths or {stack.name: [2, 2] if stack.name == "decoder" else [5, 5] for stack in shape.stacks}
    real = {name: torch.arange(max(counts)) < torch.tensor(counts)[:, None] for name, counts in lengths.items()}
    heads = (HEADS,) if attention == "heads" else ()

    def weights(layers: int, to: Tensor, source: Tensor, causal: bool) -> Tensor | None:
        if attention == "none":
            return None
        logits = torch.randn(layers, *heads, *to.shape, source.shape[1], generator=g)
        hidden = ~source[:, None].expand(-1, to.shape[1], -1)
        if causal:
            hidden = hidden | torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        return logits.masked_fill(hidden, float("-inf")).softmax(-1) * to[..., None]

    stacks = {}
    for stack in shape.stacks:
        mask, depth = real[stack.name], len(stack.layers)
        values = torch.randn(depth + 1, *mask.shape, stack.width, generator=g) * mask[..., None]
        cross = weights(depth, mask, real[stack.attends_to], False) if stack.attends_to else None
        own = weights(depth, mask, mask, stack.causal)
        stacks[stack.name] = StackBatch(
            stack.name, rms_norm(values), own, cross, mask, stack.layers, raw=False,
            parent=torch.arange(-1, mask.shape[1] - 1).expand(len(mask), -1),
        )  # fmt: skip
    final = (
        torch.randn(*real[shape.readout].shape, shape.stacks[-1].width, generator=g) * real[shape.readout][..., None]
    )
    return Batch(stacks, final, targets_of(real))


def targets_of(real: dict[str, Tensor], **values: Tensor | None) -> Targets:
    """Targets of examples with these masks by stack: label 0 and score 0 unless given."""
    count = len(next(iter(real.values())))
    found: dict[str, Tensor | None] = {
        "label": torch.zeros(count, dtype=torch.long), "score": torch.zeros(count),
        "node_trie": None, "node_target": None,
    }  # fmt: skip
    positions = {name: Positions(mask) for name, mask in real.items()}
    return Targets(rows=np.arange(count), positions=positions, **found | values)  # type: ignore[arg-type]


def as_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch in another precision."""

    def of(value: object) -> object:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    stacks = {
        name: dataclasses.replace(
            stack, **{field.name: of(getattr(stack, field.name)) for field in dataclasses.fields(stack)}
        )
        for name, stack in batch.stacks.items()
    }
    return Batch(stacks, batch.final.to(dtype), batch.targets)
