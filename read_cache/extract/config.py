"""What the user decides of a store, besides model and rows. Imports nothing heavy."""

import dataclasses
from typing import Literal

from read_cache.errors import UserError
from read_cache.store.schema import ATTENTIONS, HIDDEN_DTYPES, Attention, HiddenDtype

OnLong = Literal["truncate", "error"]


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """What the user decides of a store, besides model and rows."""

    dtype: HiddenDtype = "bf16"
    """Stored hidden states: bf16 (half the bytes) or fp32 (exact)."""
    compute_dtype: HiddenDtype | None = None
    """What the backbone runs in; the stored dtype unless given."""
    attention: Attention = "mean"
    """Attention weights kept: the mean over heads, every head's, or none."""
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
            ("--dtype", self.dtype, HIDDEN_DTYPES),
            ("--compute-dtype", self.compute_dtype or self.dtype, HIDDEN_DTYPES),
            ("--attention", self.attention, ATTENTIONS),
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
        ):
            if number is not None and number < least:
                raise UserError(f"{option} is {number}, expected at least {least}")
        if self.dtype == "fp32" and self.compute_dtype == "bf16":
            raise UserError("--dtype fp32 with --compute-dtype bf16 would store bf16's precision in twice the bytes")
