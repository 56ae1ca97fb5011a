"""LST: a small transformer beside the backbone that reads each block's raw output through a gate.

"LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning" (Sung et al., 2022).

Shape letters: B example, S position, T readout position, D backbone width, E width of the side network, H head.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from read_cache.ancestors import ancestors
from read_cache.errors import UserError
from read_cache.loader.batch import Batch, StackBatch
from read_cache.networks.base import Needs, NetworkSettings, NetworkShape, SideNetwork, StackShape
from read_cache.networks.ladder_blocks import (
    BUCKETS,
    BertBlock,
    T5Block,
    make_dropout,
    mask_bias,
    relative_buckets,
)

PROJECTION_DEVIATION = 0.01
"""Standard deviation of the first weights of all projections from and to the backbone's width."""


class LadderConfig(NetworkSettings):
    """Shape of a ladder side network."""

    shown: ClassVar[tuple[str, ...]] = ("reduction",)

    reduction: int = Field(8, ge=1)
    """The side network is this many times narrower than the backbone."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate in the side blocks, in training."""
    temperature: float = Field(0.1, gt=0)
    """Divisor of the gates' logits: gate = sigmoid(logit / temperature)."""
    feed_forward: int = Field(0, ge=0)
    """Inner width of the side blocks' feed-forward layer; 0 takes 4 times the side network's width."""
    head_size: int = Field(0, ge=0)
    """Channels of each attention head; 0 takes the side network's width divided by the backbone's heads."""
    gated: bool = False
    """Use gated GELU in T5 side blocks, as T5 v1.1 does, instead of ReLU."""


class SideStack(nn.Module):
    """The side network of one stack.

    s   = Linear_0(dropout(phi_0))
    s   = Block_i(g_i s + (1 - g_i) Linear_i(phi_i)),  g_i = sigmoid(alpha_i / temperature)    for each kept layer i
    out = dropout(norm(s))                                                        (post-norm stacks have no last norm)

    phi_i is the raw output of layer i. A gate of a layer without a side block gets no gradient.
    """

    def __init__(self, config: LadderConfig, stack: StackShape) -> None:
        super().__init__()
        width, rest = divmod(stack.width, config.reduction)
        head_size = config.head_size or width // stack.heads
        if rest or (not config.head_size and (width % stack.heads or not head_size)):
            raise UserError(
                f"reduction is {config.reduction}, but the {stack.name} has width {stack.width}, {stack.heads} heads: "
                "expected a reduction that divides the width, and a head_size if the heads do not divide the quotient"
            )
        self.config, self.shape, self.width = config, stack, width
        feed_forward, cross = config.feed_forward or 4 * width, stack.attends_to is not None
        self.down = nn.ModuleList(projection(stack.width, width) for _ in range(len(stack.layers) + 1))
        self.gates = nn.Parameter(torch.zeros(stack.depth))
        self.blocks = nn.ModuleList(
            BertBlock(width, stack.heads, head_size, feed_forward)
            if stack.post_norm
            else T5Block(width, stack.heads, head_size, feed_forward, config.gated, cross)
            for _ in stack.layers
        )
        if not stack.post_norm:
            self.position_bias = nn.Parameter(torch.randn(BUCKETS, stack.heads) * width**-0.5)
            self.norm = nn.RMSNorm(width, eps=1e-6)

    def forward(
        self,
        stack: StackBatch,
        encoded: Tensor | None = None,
        encoded_real: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return `out`, [B, S, E].

        `encoded` [B, K, E] is `out` of the stack that this one attends to, `encoded_real` [B, K] its padding mask.
        """
        dropout = make_dropout(self.config.dropout, generator)
        bias = self.attention_bias(stack)
        encoded_bias = None if encoded_real is None else mask_bias(encoded_real[:, None, None])
        s = self.down[0](dropout(stack.raw_state(0)))
        s = s.to(torch.promote_types(s.dtype, self.gates.dtype))  # the residual stream is no product: float32
        for number, (layer, block) in enumerate(zip(self.shape.layers, self.blocks, strict=True), start=1):
            gate = torch.sigmoid(self.gates[layer - 1] / self.config.temperature)
            s = gate * s + (1 - gate) * self.down[number](stack.raw_state(number))
            s = block(s, bias, encoded, encoded_bias, dropout)
        return s if self.shape.post_norm else dropout(self.norm(s))

    def attention_bias(self, stack: StackBatch) -> Tensor:
        """Return what is added to self-attention scores, [B, H or 1, S, S] float32: -inf where a key is masked.

        T5 adds its learned bias of relative positions. In a causal stack a position attends to itself and its
        ancestors, and distances are differences of depth.
        """
        position = torch.arange(stack.real.shape[1], device=stack.real.device)
        if self.shape.causal:
            parent = (position - 1).expand(stack.real.shape) if stack.parent is None else stack.parent
            attended = ancestors(parent)
            depth = attended.sum(-1)
            distance, mask = depth[:, None] - depth[..., None], mask_bias(attended[:, None])
        else:
            distance, mask = (position - position[:, None])[None], mask_bias(stack.real[:, None, None])
        if self.shape.post_norm:
            return mask
        buckets = relative_buckets(distance, bidirectional=not self.shape.causal)
        return F.embedding(buckets, self.position_bias).permute(0, 3, 1, 2) + mask


class Ladder(SideNetwork):
    """Ladder side-tuning: y = Linear_up(out) of the readout stack's side network.

    The backbone's final state is not added, so an untrained ladder is not the backbone. A stack that attends to another
    reads that stack's side network, never its states in the backbone.
    """

    kind = "ladder"
    Config = LadderConfig

    def __init__(self, config: LadderConfig, shape: NetworkShape) -> None:
        super().__init__(config, shape)
        readout = shape.stacks[-1]
        self.source = readout.attends_to
        used = [stack for stack in shape.stacks if stack.name in (self.source, readout.name)]
        self.sides = nn.ModuleDict({stack.name: SideStack(config, stack) for stack in used})
        self.up = projection(readout.width // config.reduction, readout.width)

    @classmethod
    def needs(cls, config: LadderConfig) -> Needs:
        return Needs(raw=True)

    def context(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return `out` [B, S, E] and the padding mask [B, S] of the stack that the readout attends to, if any."""
        if self.source is None:
            return {}
        stack = batch.stacks[self.source]
        return {"out": self.sides[self.source](stack, generator=generator), "real": stack.real}

    def corrected(self, batch: Batch, context: Any, generator: torch.Generator | None = None) -> Tensor:
        side = self.sides[self.readout]
        return self.up(side(batch.stacks[self.readout], context.get("out"), context.get("real"), generator))


def projection(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer between the backbone's and the side network's width, with LST's first weights."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=PROJECTION_DEVIATION)
    nn.init.zeros_(linear.bias)
    return linear
