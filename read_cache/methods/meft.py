"""MEFT: adapters in reversible blocks, whose inputs backward computes again (Liao, Tan and Monz, 2023)."""

import abc
import inspect
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.methods.base import LiveConfig, LiveMethod
from read_cache.methods.reversible import Reversible, ReversibleBlock, repeatable

DEFAULTS = {1: (0.1, 1.0, 8), 2: (1.0, 0.1, 8), 3: (0.1, 0.1, 4)}
"""Lambda and beta as published, and our segment, by variant."""


class MeftConfig(LiveConfig):
    """Settings of MEFT."""

    shown: ClassVar[tuple[str, ...]] = ("variant", "bottleneck")
    variant: int = Field(1, ge=1, le=3)
    """Functions F and G of a block. 1: its layer and an adapter. 2: an adapter and its layer. 3: its two sublayers."""
    bottleneck: int = Field(64, ge=1)
    """Width m of each adapter."""
    lambd: float | None = Field(None, gt=0)
    """lambda in y1 = lambda x1 + F(x2); by default 0.1, 1 and 0.1 in variants 1, 2 and 3."""
    beta: float | None = Field(None, gt=0)
    """beta in y2 = beta x2 + G(y1); by default 1, 0.1 and 0.1 in variants 1, 2 and 3."""
    segment: int | None = Field(None, ge=1)
    """Number of blocks for which one pair of states is kept for backward; by default 8, or 4 in variant 3."""


class AdapterLayer(nn.Sequential):
    """U dropout(act(W x + b)) + c, without a residual connection. W and U start as N(0, 0.02^2), b and c as 0."""

    def __init__(self, size: int, config: MeftConfig, activation: nn.Module) -> None:
        down, up = nn.Linear(size, config.bottleneck), nn.Linear(config.bottleneck, size)
        for linear in (down, up):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        super().__init__(down, activation, nn.Dropout(config.backbone_dropout), up)


class ReversibleStack(nn.Module, abc.ABC):
    """The blocks of one stack and their adapters, as one module that transformers calls like a block.

    A block's feed-forward layer has an adapter beside it. Variants 1 and 2 have a second adapter as a function of its
    own. In variant 3 an adapter follows each attention instead.
    """

    paths: ClassVar[tuple[str, ...]]
    """Names of the modules that hold the family's blocks."""

    def __init__(self, blocks: nn.ModuleList, config: MeftConfig, size: int) -> None:
        super().__init__()
        self.blocks, self.variant, self.adapters = blocks, config.variant, nn.ModuleList()
        lambd, beta, segment = DEFAULTS[config.variant]
        self.segment = config.segment or segment
        # 0.1 rounded to float32: with 0.1 in float64, states often lie midway between two numbers of float32
        self.scales = [float(np.float32(scale)) for scale in (config.lambd or lambd, config.beta or beta)]
        self.signature = inspect.signature(type(blocks[0]).forward)
        for block in blocks:
            activation, feed_forward, attentions = self.parts(block)
            ends = attentions if self.variant == 3 else []
            parallel, *others = (AdapterLayer(size, config, activation) for _ in range(1 + (len(ends) or 1)))
            self.add_parallel(feed_forward, parallel)
            for end, sequential in zip(ends, others, strict=False):
                end.register_forward_hook(lambda _, given, out, sequential=sequential: out + sequential(out))
            self.adapters.append(nn.ModuleList([parallel, *others]))

    # What a family defines

    @abc.abstractmethod
    def parts(self, block: Any) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
        """Return a block's activation, its feed-forward layer, and the last module of each attention sublayer.

        What these modules return is added to the residual stream.
        """

    @abc.abstractmethod
    def attention(self, block: Any, call: dict[str, Any], x: Tensor, encoded: Tensor) -> Tensor:
        """Return the output of a block's attention sublayers, residual connections and norms included."""

    @abc.abstractmethod
    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        """Return the output of a block's feed-forward sublayer, residual connection and norm included."""

    def add_parallel(self, feed_forward: nn.Module, adapter: nn.Module) -> None:
        """Add the adapter's output for the layer's input to the layer's output."""
        feed_forward.register_forward_hook(lambda _, given, out: out + adapter(given[0]))

    def joined(self, main: Tensor, other: Tensor) -> Tensor:
        """Return the stack's output. `main` is the half that follows the backbone's states, `other` the other half."""
        return main + 0.1 * other

    # What all families share

    def forward(self, *given: Any, **named: Any) -> Any:
        """Return the output of the last block."""
        call = dict(self.signature.bind(self.blocks[0], *given, **named).arguments)
        x, encoded = call["hidden_states"], call.get("encoder_hidden_states")
        encoded = x.new_empty(0) if encoded is None else encoded
        x1 = x2 = x.double()
        for first in range(0, len(self.blocks), self.segment):
            part = slice(first, first + self.segment)
            pairs = zip(self.blocks[part], self.adapters[part], strict=True)
            blocks = [self.reversible(block, adapters, call) for block, adapters in pairs]
            x1, x2 = Reversible.apply(blocks, x1, x2, encoded, *self.adapters[part].parameters())
        joined = self.joined(x1, x2) if self.variant == 2 else self.joined(x2, x1)
        return joined.to(x.dtype)

    def reversible(self, block: nn.Module, adapters: Any, call: dict[str, Any]) -> ReversibleBlock:
        """Return a block for one call. Its functions draw the same dropout each time they run."""

        def attention(x: Tensor, encoded: Tensor) -> Tensor:
            return self.attention(block, call, x, encoded)

        def feed_forward(x: Tensor, encoded: Tensor) -> Tensor:
            return self.feed_forward(block, x)

        def layer(x: Tensor, encoded: Tensor) -> Tensor:
            return feed_forward(attention(x, encoded), encoded)

        def adapter(x: Tensor, encoded: Tensor) -> Tensor:
            return adapters[1](x)

        functions = {1: (layer, adapter), 2: (adapter, layer), 3: (attention, feed_forward)}[self.variant]
        f, g = (repeatable(function, self.training) for function in functions)
        lambd, beta = self.scales
        return ReversibleBlock(f, g, lambd, beta, swap=self.variant != 3, dtype=call["hidden_states"].dtype)


class T5Stack(ReversibleStack):
    """T5's encoder or decoder. Nothing is published for T5; these choices are ours.

    Self-attention and cross-attention are one function, each with an adapter in variant 3. Each stack ends as OPT's.
    The sum of the feed-forward layer and the adapter beside it has one dropout.
    """

    paths = ("encoder.block", "decoder.block")

    def parts(self, block: Any) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
        feed_forward = block.layer[-1].DenseReluDense
        return feed_forward.act, feed_forward, [layer.dropout for layer in block.layer[:-1]]

    def forward(self, *given: Any, **named: Any) -> Any:
        out = super().forward(*given, **named)
        return (out, None, None) if self.shares_bias else out

    @property
    def shares_bias(self) -> bool:
        """True if all blocks use the first block's position bias. Each block of UMT5 has its own."""
        return "position_bias" in self.signature.parameters

    def attention(self, block: Any, call: dict[str, Any], x: Tensor, encoded: Tensor) -> Tensor:
        cache = call.get("past_key_values")
        bias = {"position_bias": call.get("position_bias")} if self.shares_bias else {}
        x, *rest = block.layer[0](x, attention_mask=call.get("attention_mask"), past_key_values=cache, **bias)
        if self.shares_bias:
            call["position_bias"] = rest[0]
        if len(block.layer) == 3:
            x = block.layer[1](x, encoded, attention_mask=call.get("encoder_attention_mask"), past_key_values=cache)[0]
        return x

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        return block.layer[-1](x)


class BertStack(ReversibleStack):
    """BERT's layers, as published: norms follow the residual connections, and the end is the mean of both halves."""

    paths = ("encoder.layer",)

    def parts(self, block: Any) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
        return block.intermediate.intermediate_act_fn, block.output, [block.attention.output.dropout]

    def add_parallel(self, feed_forward: nn.Module, adapter: nn.Module) -> None:
        feed_forward.register_forward_pre_hook(lambda _, given: (given[0], given[1] + adapter(given[1])))

    def attention(self, block: Any, call: dict[str, Any], x: Tensor, encoded: Tensor) -> Tensor:
        return block.attention(x, call.get("attention_mask"))[0]

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        return block.feed_forward_chunk(x)

    def joined(self, main: Tensor, other: Tensor) -> Tensor:
        return (main + other) / 2


class GPT2Stack(ReversibleStack):
    """GPT-2's blocks, which end as published for OPT: the main half and a tenth of the other."""

    paths = ("transformer.h",)
    names: ClassVar[tuple[str, str, str]] = ("ln_1", "attn", "ln_2")
    """The attributes of a block for the first norm, the attention and the second norm."""

    def parts(self, block: Any) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
        return block.mlp.act, block.mlp, [block.attn.resid_dropout]

    def attention(self, block: Any, call: dict[str, Any], x: Tensor, encoded: Tensor) -> Tensor:
        norm, attend, _ = (getattr(block, name) for name in self.names)
        taken = ("attention_mask", "past_key_values", "position_embeddings")
        return x + attend(norm(x), **{name: call[name] for name in taken if name in call})[0]

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        return x + block.mlp(getattr(block, self.names[2])(x))


class LlamaStack(GPT2Stack):
    """Llama's layers, which end as published: the factor of the other half is learnt, and 0 at first."""

    paths = ("model.layers",)
    names = ("input_layernorm", "self_attn", "post_attention_layernorm")

    def __init__(self, blocks: nn.ModuleList, config: MeftConfig, size: int) -> None:
        super().__init__(blocks, config, size)
        self.s = nn.Parameter(torch.zeros(()))

    def parts(self, block: Any) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
        return block.mlp.act_fn, block.mlp, [block.self_attn.o_proj]

    def joined(self, main: Tensor, other: Tensor) -> Tensor:
        return main + self.s * other


STACKS: dict[str, type[ReversibleStack]] = {"t5": T5Stack, "bert": BertStack, "llama": LlamaStack, "gpt2": GPT2Stack}
"""Reversible stack of each family."""


class Meft(LiveMethod):
    """Train adapters in reversible blocks of the frozen backbone. It starts near the backbone, not equal."""

    kind = "meft"
    Config = MeftConfig
    config: MeftConfig

    def insert(self, module: nn.Module) -> nn.Module:
        """Make all blocks reversible. Raises UserError for a family whose blocks are unknown."""
        family, size = self.backbone.family, self.backbone.stacks[0].width
        if family not in STACKS:
            raise UserError(
                f"model {self.backbone.name} is a {family}, expected {', '.join(STACKS)}: train it with another method "
                "than meft"
            )
        for path in STACKS[family].paths:
            blocks: Any = module.get_submodule(path)
            module.set_submodule(path, nn.ModuleList([STACKS[family](blocks, self.config, size)]))
        return module
