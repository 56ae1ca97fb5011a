"""LST: a small transformer beside the backbone that reads each block's raw output through a gate.

"LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning" (Sung et al., 2022).

Shape letters: B example, S position, T readout position, D backbone width, E width of the side network, H head.
"""

import re
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.numpy import load
from torch import Tensor, nn

from read_cache.ancestors import ancestors
from read_cache.errors import UserError
from read_cache.loader.batch import Batch, StackBatch
from read_cache.networks.base import Needs, NetworkSettings, NetworkShape, SideNetwork, StackShape
from read_cache.networks.inputs import dropout as inverted_dropout
from read_cache.networks.ladder_blocks import (
    BUCKETS,
    BertBlock,
    LlamaBlock,
    T5Block,
    mask_bias,
    relative_buckets,
    rotary_angles,
)
from read_cache.store.folder import StoreFolder, side_init_file


class LadderConfig(NetworkSettings):
    """Settings of a ladder side network. Its blocks are the backbone's, `reduction` times narrower."""

    shown: ClassVar[tuple[str, ...]] = ("reduction",)

    reduction: int = Field(8, ge=1)
    """The side network is this many times narrower than the backbone."""
    init: Literal["random", "magnitude", "fisher"] = "random"
    """First weights of side blocks: random, or magnitude or fisher (of a T5, written by `extract` with side_init)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout rate in the side blocks, in training."""
    temperature: float = Field(0.1, gt=0)
    """Divisor of the gates' logits: gate = sigmoid(logit / temperature)."""
    merge_last: bool = False
    """Mix the output with the backbone's last state by one more gate, so that training starts near the backbone."""
    feed_forward: int = Field(0, ge=0)
    """Inner width of the side blocks' feed-forward layer; 0 takes the backbone's divided by the reduction."""
    head_size: int = Field(0, ge=0)
    """Channels of each attention head; 0 takes the backbone's divided by the reduction."""
    gated: bool | None = None
    """Use gated GELU in T5 side blocks, as T5 v1.1 does, or ReLU; by default as the backbone."""


class SideStack(nn.Module):
    """The side network of one stack.

    s   = Linear_0(dropout(phi_0))
    s   = Block_i(g_i s + (1 - g_i) Linear_i(phi_i)),  g_i = sigmoid(alpha_i / temperature)    for each kept layer i
    out = dropout(norm(s))                                                        (post-norm stacks have no last norm)

    phi_i is the raw output of layer i. The gate of a layer without a side block gets no gradient. If
    `reads_layers` is False, all g_i are 1 (Side-Tuning) and every layer of the backbone has a side block.
    """

    def __init__(self, config: LadderConfig, stack: StackShape, reads_layers: bool = True) -> None:
        super().__init__()
        width, rest = divmod(stack.width, config.reduction)
        sizes = stack.block
        head_size = config.head_size or (sizes.head_size or stack.width // stack.heads) // config.reduction
        feed_forward = config.feed_forward or (sizes.feed_forward or 4 * stack.width) // config.reduction
        if rest or not (head_size and feed_forward) or (sizes.rotary_base and head_size % 2):
            raise UserError(
                f"reduction is {config.reduction}, but the {stack.name} has width {stack.width}, {stack.heads} heads: "
                "expected a reduction that divides the width and leaves each head a channel, two with rotary positions"
            )
        self.config, self.shape, self.width, self.head_size = config, stack, width, head_size
        self.layers = stack.layers if reads_layers else tuple(range(1, stack.depth + 1))
        self.down = nn.ModuleList(projection(stack.width, width) for _ in range(1 + reads_layers * len(self.layers)))
        self.gates = nn.Parameter(torch.zeros(stack.depth)) if reads_layers else None
        self.gated = sizes.gated if config.gated is None else config.gated

        def make_block() -> nn.Module:
            if stack.post_norm:
                return BertBlock(width, stack.heads, head_size, feed_forward)
            if sizes.rotary_base:
                return LlamaBlock(width, stack.heads, head_size, feed_forward, sizes.key_value_heads)
            return T5Block(width, stack.heads, head_size, feed_forward, self.gated, stack.attends_to is not None)

        self.blocks = nn.ModuleList(make_block() for _ in self.layers)
        if not stack.post_norm:
            if not sizes.rotary_base:
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
        dropout = partial(inverted_dropout, rate=self.config.dropout, generator=generator)
        bias, *others = self.positions(stack)
        if encoded is not None and encoded_real is not None:
            others = [encoded, mask_bias(encoded_real[:, None, None])]
        s = self.down[0](dropout(stack.raw_state(0)))
        s = s.to(torch.promote_types(s.dtype, torch.float32))  # the residual stream is no product: float32
        for number, (layer, block) in enumerate(zip(self.layers, self.blocks, strict=True), start=1):
            if self.gates is not None:
                gate = torch.sigmoid(self.gates[layer - 1] / self.config.temperature)
                s = gate * s + (1 - gate) * self.down[number](stack.raw_state(number))
            s = block(s, bias, dropout, *others)
        return s if self.shape.post_norm else dropout(self.norm(s))

    def positions(self, stack: StackBatch) -> list[Tensor]:
        """Return the mask that is added to attention scores, [B, H or 1, S, S] float32: -inf where a key is masked.

        For T5 it includes the learned bias of relative positions. For Llama a second tensor has the `rotary_angles`. In
        a causal stack a position attends to itself and its ancestors, and its number is its depth.
        """
        place = torch.arange(stack.real.shape[1], device=stack.real.device)
        if self.shape.causal:
            parent = (place - 1).expand(stack.real.shape) if stack.parent is None else stack.parent
            attended = ancestors(parent)
            place, mask = attended.sum(-1) - 1, mask_bias(attended[:, None])
        else:
            place, mask = place[None], mask_bias(stack.real[:, None, None])
        if self.shape.post_norm:
            return [mask]
        if base := self.shape.block.rotary_base:
            return [mask, rotary_angles(place, self.head_size, base)]
        buckets = relative_buckets(place[:, None] - place[..., None], bidirectional=not self.shape.causal)
        return [F.embedding(buckets, self.position_bias).permute(0, 3, 1, 2) + mask]

    def pruned_name(self, name: str) -> str:
        """Return a weight's name in a file of pruned weights, which numbers layers as the backbone does."""
        numbered = re.sub(r"^blocks\.(\d+)", lambda match: str(self.layers[int(match[1])]), name)
        return f"{self.shape.name}.{numbered}"


class Ladder(SideNetwork):
    """Ladder side-tuning: y = Linear_up(out) of the readout stack's side network.

    By default the backbone's final state is not added, so an untrained ladder is not the backbone. With merge_last,
    y = g Linear_up(out) + (1 - g) phi_N, g = sigmoid(alpha / temperature), alpha = 0 at first. A stack that attends to
    another stack reads `out` of that stack's side network, never the backbone's states of it.
    """

    kind = "ladder"
    Config = LadderConfig
    reads_layers: ClassVar[bool] = True
    """The side blocks read the outputs of the backbone's layers."""

    def __init__(self, config: LadderConfig, shape: NetworkShape) -> None:
        super().__init__(config, shape)
        readout = shape.stacks[-1]
        self.source = readout.attends_to
        used = [stack for stack in shape.stacks if stack.name in (self.source, readout.name)]
        self.sides = nn.ModuleDict({stack.name: SideStack(config, stack, self.reads_layers) for stack in used})
        self.up = projection(readout.width // config.reduction, readout.width)
        self.merge = nn.Parameter(torch.zeros(())) if config.merge_last else None

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
        y = self.up(side(batch.stacks[self.readout], context.get("out"), context.get("real"), generator))
        if self.merge is None:
            return y
        gate = torch.sigmoid(self.merge / self.config.temperature)
        return gate * y + (1 - gate) * batch.final

    def take_first_weights(self, folder: StoreFolder) -> None:
        """Copy the pruned weights of side blocks and last norms from the store's folder, unless `init` is random.

        Raises UserError if there are none, or if they are of blocks of other sizes.
        """
        init, reduction = self.config.init, self.config.reduction
        if init == "random":
            return
        name = side_init_file(init, reduction)
        if not folder.files.exists(name):
            raise UserError(
                f"init is {init}, but the store {folder.path} has no {name}: run its extract command again with "
                f"--set side_init={init} --set side_reduction={reduction}"
            )
        pruned = load(folder.files.read(name))
        for side in self.sides.values():
            assert isinstance(side, SideStack)
            for own, weight in side.named_parameters():
                if own.startswith(("down.", "gates")):
                    continue
                values = pruned.get(side.pruned_name(own))
                if values is None or values.shape != weight.shape:
                    found = "nothing" if values is None else list(values.shape)
                    raise UserError(
                        f"{folder.path}/{name} has {found} for {side.pruned_name(own)}, expected {list(weight.shape)}: "
                        "leave feed_forward, head_size and gated as they are by default, or set init to random"
                    )
                weight.data.copy_(torch.from_numpy(values))


def projection(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer between the backbone's and the side network's width, as in LST: weights N(0, 0.01^2)."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return linear
