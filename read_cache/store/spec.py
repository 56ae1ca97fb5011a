"""A backbone's stacks and their shapes, as stores, networks and results keep them."""

from read_cache.settings import Record

IMPORTED = "imported"
"""Family of a backbone whose states were imported: it has no weights here."""


class BlockSpec(Record):
    """Sizes inside a stack's blocks, which side blocks divide. Stores of earlier versions do not record them."""

    head_size: int = 0
    """Channels of an attention head; 0: width / heads."""
    key_value_heads: int = 0
    """Heads of keys and values, each shared by equally many heads; 0: as many as heads."""
    feed_forward: int = 0
    """Inner width of the feed-forward layer; 0: 4 times the width."""
    gated: bool = False
    """The feed-forward layer of a T5 is gated."""
    rotary_base: float = 0.0
    """Base of rotary positions, as in Llama; 0: no rotary positions."""


class StackSpec(Record):
    """One stack of a backbone: a sequence of positions with hidden states of its own."""

    name: str
    """`encoder` or `decoder`."""
    layers: int
    width: int
    heads: int
    causal: bool = False
    """A position attends only to itself and to earlier positions."""
    attends_to: str | None = None
    """The stack that this one's cross-attention reads."""
    final_norm: bool = False
    """A norm follows the last block, so the last hidden state differs from that block's raw output."""
    segments: bool = False
    """Positions carry a token type and the number of the text they belong to."""
    post_norm: bool = False
    """Blocks normalise after each residual sum (BERT) instead of before each sublayer (T5)."""
    block: BlockSpec = BlockSpec()


class BackboneSpec(Record):
    """A backbone, identified by `digest`."""

    name: str
    """The name or folder it was opened by; not part of its identity."""
    revision: str
    digest: str
    """sha256 over the weights files and the configuration."""
    family: str
    parameters: int
    """Number of its parameters; 0: unknown, of an imported store."""
    stacks: tuple[StackSpec, ...]
    language_model: bool
    """The backbone has a head that scores the tokens of labels."""

    @property
    def readout(self) -> str:
        """The stack whose final states the head reads: the last one."""
        return self.stacks[-1].name

    @property
    def width(self) -> int:
        """Width of the readout stack."""
        return self.stacks[-1].width

    def stack(self, name: str) -> StackSpec:
        return next(stack for stack in self.stacks if stack.name == name)

    def percent(self, parameters: int) -> float:
        """Return a number of parameters in percent of the backbone's; 0 where those are unknown."""
        return round(100 * parameters / self.parameters, 4) if self.parameters else 0.0
