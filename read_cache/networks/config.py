"""The settings of one READ network."""

import dataclasses
import math
from typing import Literal

from read_cache.errors import UserError
from read_cache.layers import parse_layers
from read_cache.store.schema import ATTENTIONS, Attention

Cell = Literal["rnn", "gru", "lstm"]
Aggregate = Literal["last", "mean"]
InitialState = Literal["zero", "embeddings"]
CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")


@dataclasses.dataclass(frozen=True)
class ReadConfig:
    """Shape of a READ network. Raises UserError for settings that contradict each other."""

    cell: Cell = "gru"
    """What carries the correction from layer to layer."""
    hidden: int = 128
    """Width r of the side network's state."""
    recurrent: bool = True
    """One set of weights for all layers; untied has one set a layer, and a cell that carries nothing (Table 2)."""
    attention: Attention = "mean"
    """The Joiner's weights: the mean over heads, a learned mixture of heads, or none (no Joiner, decoder alone)."""
    aggregate: Aggregate = "last"
    """The correction is the last layer's state, or the mean over layers."""
    initial_state: InitialState = "embeddings"
    """h_0 from the embeddings, as in the authors' code, or zero, as in the paper."""
    embedding_gain: float = 1.0
    """h_0 = tanh(gain (W_0 norm(phi_0) + matched)): how fast a first state tells words apart, for the same rate.

    A small backbone's embeddings have few channels, and what a word means to a task must be cut out of them.
    """
    matching: int = 0
    """Width in which a token's first state compares the tokens of its row, as `matching.py` says; 0 leaves it out.

    Not in the paper, whose backbones compare by themselves.
    """
    residual: float = 1.0
    """y = residual phi_N + U h_N; 1 is the paper's.

    The frozen logits of a task that the backbone was never trained on differ between examples for no reason of the
    task's. A network has to unlearn that first; with 0 it starts from equal logits instead.
    """
    dropout: float = 0.0
    """Dropout on the normalised hidden states, in training."""
    standardize: bool = True
    """Centre and scale every channel of every layer by its mean and deviation over training rows (not in the paper).

    A decoder node's states hardly differ between examples, so without it a network first has to learn to subtract a
    constant, and stays at the majority class for epochs.
    """

    layers: str = "all"
    """Layers it runs over, such as 2,4,6-12, each stack's last always among them; all that the store holds."""

    def __post_init__(self) -> None:
        parse_layers(self.layers)
        for name, value, known in (
            ("cell", self.cell, CELLS),
            ("attention", self.attention, ATTENTIONS),
            ("aggregate", self.aggregate, ("last", "mean")),
            ("initial state", self.initial_state, ("zero", "embeddings")),
        ):
            if value not in known:
                raise UserError(f"{name} {value!r} is none of {', '.join(known)}")
        if self.hidden < 1:
            raise UserError(f"hidden is {self.hidden}, expected at least 1")
        if not 0 < self.embedding_gain < math.inf:
            raise UserError(f"embedding gain is {self.embedding_gain}, expected more than 0")
        if self.embedding_gain != 1 and self.initial_state == "zero":
            raise UserError("a first state that is zero has no embedding gain: use --initial-state embeddings, or 1")
        if self.matching < 0:
            raise UserError(f"matching is {self.matching}, expected a width, or 0 for none")
        if self.matching and (self.initial_state == "zero" or self.attention == "none"):
            raise UserError(
                "matching is part of the encoder's first state: use --initial-state embeddings and a store with "
                "attention weights, or --matching 0"
            )
        if not 0 <= self.residual <= 1:
            raise UserError(f"residual is {self.residual}, expected 0 to 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}, expected 0 or more and under 1")
        if not self.recurrent and self.attention == "none" and self.aggregate == "last":
            raise UserError(
                "untied without the Joiner carries nothing between layers, so --aggregate last would see only the last "
                "layer: use --aggregate mean, or a store with attention weights"
            )
        if not self.recurrent and self.attention == "none" and self.initial_state != "zero":
            raise UserError("untied without the Joiner never uses a first state: use --initial-state zero")


@dataclasses.dataclass(frozen=True)
class BackboneShape:
    """What a network's shape takes from the backbone."""

    width: int
    encoder_layers: tuple[int, ...]
    """The backbone's numbers, from 1, of the layers a network runs over."""
    decoder_layers: tuple[int, ...]
    heads: int
