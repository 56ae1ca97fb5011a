"""Small ladders with weights that hide no mistake, and random batches of raw states for them."""

import dataclasses

import torch

from read_cache.loader.batch import Batch, StackBatch
from read_cache.networks.base import NetworkShape, StackShape, build_network
from read_cache.networks.ladder import Ladder, LadderConfig
from read_cache.store.spec import BlockSpec

PARENTS = [[-1, 0, 1, 1, 0, 3, 2, -1], [-1, 0, 1, 2, 3, 4, 5, 6]]
"""A tree with branches, its last place padding, and a plain sequence."""
SMALL = LadderConfig(reduction=2, feed_forward=24)


def t5_shape(layers: tuple[int, ...], width: int = 32, heads: int = 4, block: BlockSpec | None = None) -> NetworkShape:
    block = block or BlockSpec()
    encoder = StackShape(name="encoder", width=width, heads=heads, layers=layers, depth=layers[-1], block=block)
    decoder = dataclasses.replace(encoder, name="decoder", attends_to="encoder", causal=True)
    return NetworkShape((encoder, decoder))


def bert_shape(layers: tuple[int, ...], width: int = 32, heads: int = 4) -> NetworkShape:
    encoder = StackShape(name="encoder", width=width, heads=heads, layers=layers, depth=layers[-1], post_norm=True)
    return NetworkShape((encoder,))


def llama_shape(layers: tuple[int, ...]) -> NetworkShape:
    block = BlockSpec(key_value_heads=2, rotary_base=100.0)
    return NetworkShape(
        (StackShape("decoder", width=32, heads=4, layers=layers, depth=layers[-1], causal=True, block=block),)
    )


def stack_batch(name: str, lengths: list[int], layers: int, width: int = 32, parent: list | None = None) -> StackBatch:
    """Random raw states as a stack without a last norm gives them; padding is zero."""
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    values = torch.randn(layers + 1, *real.shape, width) * 3 * real[..., None]
    return StackBatch(
        name=name, values=values, self_attention=None, cross_attention=None, real=real,
        layers=tuple(range(1, layers + 1)), raw=True, parent=None if parent is None else torch.tensor(parent),
    )  # fmt: skip


def t5_batch(layers: int, width: int = 32) -> Batch:
    """Two examples of 9 and 5 tokens; their decoders are the trees of PARENTS."""
    torch.manual_seed(3)
    stacks = {
        "encoder": stack_batch("encoder", [9, 5], layers, width),
        "decoder": stack_batch("decoder", [7, 8], layers, width, PARENTS),
    }
    return Batch(stacks=stacks, final=stacks["decoder"].values[-1], targets=None)  # type: ignore[arg-type]


def bert_batch(layers: int) -> Batch:
    torch.manual_seed(3)
    stack = stack_batch("encoder", [9, 5], layers)
    return Batch(stacks={"encoder": stack}, final=stack.values[-1], targets=None)  # type: ignore[arg-type]


def llama_batch(layers: int) -> Batch:
    """The trees of PARENTS."""
    torch.manual_seed(3)
    stack = stack_batch("decoder", [7, 8], layers, parent=PARENTS)
    return Batch(stacks={"decoder": stack}, final=stack.values[-1], targets=None)  # type: ignore[arg-type]


def scrambled(config: LadderConfig, shape: NetworkShape) -> Ladder:
    """A ladder none of whose parameters has a value that hides a mistake."""
    network = build_network("ladder", config, shape, seed=0)
    torch.manual_seed(5)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    assert isinstance(network, Ladder)
    return network
