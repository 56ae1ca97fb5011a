"""What the user decides of a store, besides model and rows. Imports nothing heavy."""

import dataclasses
from typing import Literal

from read_cache.errors import UserError
from read_cache.layers import choose_layers, parse_layers
from read_cache.store.schema import (
    ATTENTION_DTYPES,
    ATTENTIONS,
    COMPUTE_DTYPES,
    DTYPES,
    Attention,
    AttentionDtype,
    ComputeDtype,
    Dtype,
    Form,
)

OnLong = Literal["truncate", "error"]


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """What the user decides of a store, besides model and rows."""

    dtype: Dtype = "bf16"
    """Stored encoder states: fp32 (exact), bf16 (half the bytes) or int8 (a quarter)."""
    compute_dtype: ComputeDtype | None = None
    """What the backbone runs in; fp32 for fp32 stores and bf16 for others unless given."""
    attention: Attention = "mean"
    """Attention weights kept: the mean over heads, every head's, or none."""
    attention_dtype: AttentionDtype | None = None
    """Stored attention weights: fp32, fp16 or uint8; fp32 beside fp32 states and fp16 beside others unless given."""
    rank: int = 0
    """Keep each encoder state's projection on this many principal directions; 0 keeps whole states."""
    layers: str = "all"
    """Layers kept, such as 2,4,6-12; the embeddings and each stack's last layer always are."""
    max_examples: int | None = None
    """At most this many examples of each split, a seeded sample."""
    max_source_length: int = 128
    """Encoder tokens, eos included."""
    on_long: OnLong = "truncate"
    """What becomes of longer sources: cut, as the protocol does, or refused."""
    seed: int = 0
    """Decides the order in which examples lie in the store."""
    part_tokens: int = 8192
    """Encoder tokens, and decoder nodes, in one part: one chunk of every array."""
    batch_tokens: int = 4096
    """Padded encoder tokens in one forward batch."""

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--dtype", self.dtype, DTYPES),
            ("--compute-dtype", self.computed_in, COMPUTE_DTYPES),
            ("--attention", self.attention, ATTENTIONS),
            ("--attention-dtype", self.attention_dtype or "fp16", ATTENTION_DTYPES),
            ("--on-long", self.on_long, ("truncate", "error")),
        ):
            if value not in known:
                raise UserError(f"{option} {value!r} is none of {', '.join(known)}")
        for option, number, least in (
            ("--max-examples", self.max_examples, 1),
            ("--max-source-length", self.max_source_length, 2),
            ("--part-tokens", self.part_tokens, 1),
            ("--batch-tokens", self.batch_tokens, 1),
            ("--seed", self.seed, 0),
            ("--rank", self.rank, 0),
        ):
            if number is not None and number < least:
                raise UserError(f"{option} is {number}, expected at least {least}")
        parse_layers(self.layers)
        if self.dtype == "fp32" and self.compute_dtype == "bf16":
            raise UserError("--dtype fp32 with --compute-dtype bf16 would store bf16's precision in twice the bytes")

    @property
    def computed_in(self) -> ComputeDtype:
        """What the backbone runs in."""
        return self.compute_dtype or ("fp32" if self.dtype == "fp32" else "bf16")

    def form(self, encoder_layers: int, decoder_layers: int, width: int) -> Form:
        """In what form a backbone of this shape is stored. Raises UserError where it has no such layers or rank."""
        if self.rank >= width:
            raise UserError(
                f"--rank is {self.rank}, but states have {width} channels: give less, or 0 to keep them whole"
            )
        return Form(
            dtype=self.dtype,
            attention=self.attention,
            attention_dtype=self.attention_dtype or ("fp32" if self.dtype == "fp32" else "fp16"),
            rank=self.rank,
            encoder_layers=choose_layers(self.layers, tuple(range(1, encoder_layers + 1)), "the encoder"),
            decoder_layers=choose_layers(self.layers, tuple(range(1, decoder_layers + 1)), "the decoder"),
        )
