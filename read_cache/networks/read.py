"""READ: a recurrent network over the layers of a frozen backbone.

Eq. 1 of "READ: Recurrent Adaptation of Large Transformers".

Shape letters: L layer, B example, S position of a stack, D backbone width, R side width, G gates times R, H head.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.loader.batch import Batch, StackBatch, Statistics
from read_cache.networks.base import Needs, NetworkSettings, NetworkShape, SideNetwork, StackShape
from read_cache.networks.inputs import Components, Standardiser, WholeStates, dropped_out, network_input, product_dtype
from read_cache.store.schema import Attention, Format

State = tuple[Tensor, Tensor]
"""(h, c), [B, S, R] each. Only the LSTM uses c."""


def rnn(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """tanh(W_ih x + W_hh h); one gate."""
    return torch.tanh(from_input + from_state), state[1]


def gru(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """Gates in the order reset, update, new."""
    reset_x, update_x, new_x = from_input.chunk(3, dim=-1)
    reset_h, update_h, new_h = from_state.chunk(3, dim=-1)
    update = torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return new + update * (state[0] - new), state[1]


def lstm(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """Gates in the order input, forget, cell, output."""
    enter, forget, cell, output = (from_input + from_state).chunk(4, dim=-1)
    memory = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(cell)
    return torch.sigmoid(output) * torch.tanh(memory), memory


Cell = Callable[[Tensor, Tensor, State], State]
CELLS: dict[str, tuple[Cell, int]] = {"rnn": (rnn, 1), "gru": (gru, 3), "lstm": (lstm, 4)}
"""Cells and their numbers of gates, in the order of torch.nn's cells. The input's product with its weights is given."""


class ReadConfig(NetworkSettings):
    """Settings of a READ network. Raises UserError if they contradict each other."""

    shown: ClassVar[tuple[str, ...]] = ("cell", "hidden")
    cell: Literal["rnn", "gru", "lstm"] = "gru"
    """Recurrent cell that carries the correction from layer to layer: rnn, gru or lstm."""
    hidden: int = Field(default=128, ge=1)
    """Width of the side network's hidden state."""
    recurrent: bool = True
    """Share one set of weights between all layers; false: one set a layer, and no state (the paper's Table 2)."""
    attention: Attention | None = None
    """Attention weights of the Joiner, which mixes states over tokens: mean, heads (a learned mixture) or none.

    The default is that of the store.
    """
    aggregate: Literal["last", "mean"] = "last"
    """State that gives the correction: last (of the last layer) or mean (over layers)."""
    initial_state: Literal["zero", "embeddings"] = "embeddings"
    """First state h_0: embeddings (computed from them, as in the authors' code) or zero (as in the paper)."""
    standardize: bool = True
    """Centre and scale every channel of every layer by its mean and deviation over training rows (not in the paper)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.recurrent and self.attention == "none":
            if self.aggregate == "last":
                raise UserError(
                    "recurrent is false and there is no Joiner, so nothing passes between layers and aggregate 'last' "
                    "would see only the last layer: set aggregate to mean, or use a store with attention weights"
                )
            if self.initial_state != "zero":
                raise UserError("recurrent is false and there is no Joiner, so h_0 is unused: set initial_state zero")
        return self


class ReadStack(nn.Module):
    """h_1 … h_N of one stack. `cross` adds the term from the last READ state of the stack that it attends to.

    f     = F h_{i-1}
    psi_i = A f^a + sum_b sigma_i^{ab} B f^b  (+ sum_b sigma_cross_i^{ab} C e^b)
    h_i   = Cell(W [norm(phi_i); psi_i], h_{i-1})
    """

    def __init__(self, config: ReadConfig, shape: StackShape, cross: bool) -> None:
        super().__init__()
        layers = shape.layers
        self.config, self.joined = config, config.attention != "none"
        self.standardiser = Standardiser(len(layers), shape.width) if config.standardize else None
        self.cell, gate_count = CELLS[config.cell]
        sets, width, gates = (1 if config.recurrent else len(layers)), config.hidden, gate_count * config.hidden

        def weights(rows: int, columns: int) -> nn.Parameter:
            """Return matrices that keep the variance of their input."""
            return nn.Parameter(torch.randn(sets, rows, columns) * columns**-0.5)

        def bias() -> nn.Parameter:
            return nn.Parameter(torch.zeros(sets, gates))

        self.folded = self.joined and gates == width  # an RNN sums W psi and W_h h: one product for both
        self.W_phi, self.b = weights(gates, shape.width), bias()
        if config.recurrent:  # an untied cell carries no state, so it has no weights for one
            self.W_h, self.b_h = weights(gates, width), bias()
        if config.initial_state == "embeddings":
            self.W_0 = nn.Parameter(torch.randn(width, shape.width) * shape.width**-0.5)
        if self.joined:
            self.F, self.A, self.B = weights(width, width), weights(width, width), weights(width, width)
            self.W_psi = weights(gates, width)
            self.mixture = nn.ParameterDict()
            if cross:
                self.C = weights(width, width)
            if config.attention == "heads":  # a learned mixture, at first the mean
                names = ("self", "cross") if cross else ("self",)
                self.mixture.update({name: nn.Parameter(torch.zeros(len(layers), shape.heads)) for name in names})

    def forward(
        self, stack: StackBatch, encoded_BSR: Tensor | None = None, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Return h_1 … h_N, [B, S, R] each. `encoded_BSR` is the last READ state of the stack attended to."""
        whole = network_input(stack, self.standardiser)
        phi = self.dropped(whole, generator)
        h = self.first_state(whole, phi, stack.real)
        c = torch.zeros_like(h)
        states: list[Tensor] = []
        joiner = [self.joiner_weights(k) for k in range(len(self.W_phi))] if self.joined else []
        from_encoder: list[Tensor] = []
        if encoded_BSR is not None:
            from_encoder = [F.linear(encoded_BSR, self.into_psi(C, k)) for k, C in enumerate(self.C)]
        bias = self.b + self.b_h if self.folded and self.config.recurrent else self.b
        for i, x in enumerate(phi.layers(self.W_phi, bias)):
            k = 0 if self.config.recurrent else i
            if self.joined:
                AF, BF = joiner[k]
                psi = plus_product(x, h, AF) if self.folded else F.linear(h, AF)
                psi = torch.baddbmm(psi, self.sigma("self", stack, i), F.linear(h, BF))
                if from_encoder:
                    psi = torch.baddbmm(psi, self.sigma("cross", stack, i), from_encoder[k])
                x = psi if self.folded else plus_product(x, psi, self.W_psi[k])
            if self.folded:  # an RNN, whose sum is complete
                h = torch.tanh(x)
            elif self.config.recurrent:
                h, c = self.cell(x, F.linear(h, self.W_h[k], self.b_h[k]), (h, c))
            else:
                h, c = self.cell(x, torch.zeros_like(x), (torch.zeros_like(h), torch.zeros_like(c)))
            states.append(h)
        return states

    def dropped(self, whole: WholeStates | Components, generator: torch.Generator | None) -> WholeStates | Components:
        """Return the input after dropout, which `generator` draws; None outside training."""
        return dropped_out(whole, self.config.dropout, generator)

    def joiner_weights(self, k: int) -> tuple[Tensor, Tensor]:
        """Return A F and B F, or, where W_psi is folded into them, W A F + W_h and W B F."""
        AF, BF = (self.into_psi(weight[k] @ self.F[k], k) for weight in (self.A, self.B))
        return (AF + self.W_h[k] if self.folded and self.config.recurrent else AF), BF

    def into_psi(self, weight: Tensor, k: int) -> Tensor:
        """Return a term's weights in psi, or in W psi where W_psi is folded into them."""
        return self.W_psi[k] @ weight if self.folded else weight

    def first_state(self, whole: WholeStates | Components, phi: WholeStates | Components, real_BS: Tensor) -> Tensor:
        """Return h_0, [B, S, R]: zero, or tanh(W_0 norm(phi_0)). `phi` is the network's input `whole` after dropout."""
        if self.config.initial_state == "embeddings":
            return torch.tanh(self.embedded(whole, phi, real_BS))
        return self.W_phi.new_zeros(*phi.shape, self.config.hidden)

    def embedded(self, whole: WholeStates | Components, phi: WholeStates | Components, real_BS: Tensor) -> Tensor:
        """Return W_0 norm(phi_0), [B, S, R]; the arguments are those of `first_state`."""
        return phi.embeddings(self.W_0)

    def sigma(self, kind: str, stack: StackBatch, layer: int) -> Tensor:
        """Return a layer's attention weights, [B, to, from]: heads averaged, or mixed by learned weights."""
        weights = stack.attention(f"{kind}_attention", product_dtype(stack.values))[layer]
        if self.config.attention == "mean":
            return weights
        return torch.einsum("h,hbts->bts", self.mixture[kind][layer].softmax(0), weights)


def plus_product(x_BSG: Tensor, h_BSR: Tensor, W_GR: Tensor) -> Tensor:
    """Return x + W h, [B, S, G], added where the product is accumulated."""
    return torch.addmm(x_BSG.flatten(0, 1), h_BSR.flatten(0, 1), W_GR.T).view(x_BSG.shape)


class Read(SideNetwork):
    """READ over every stack of the backbone: y = phi_N + U h_N, with U = 0 at first.

    Without the Joiner only the readout stack is used: other stacks reach the output through attention alone.
    """

    kind = "read"
    Config = ReadConfig
    Stack: ClassVar[type[ReadStack]] = ReadStack

    def __init__(self, config: ReadConfig, shape: NetworkShape) -> None:
        super().__init__(config, shape)
        joined = config.attention != "none"
        used = shape.stacks if joined else shape.stacks[-1:]
        self.stacks = nn.ModuleDict(
            {stack.name: self.Stack(config, stack, cross=joined and stack.attends_to is not None) for stack in used}
        )
        self.U = nn.Parameter(torch.zeros(shape.stacks[-1].width, config.hidden))

    @classmethod
    def resolve(cls, config: ReadConfig, format: Format) -> ReadConfig:
        return config if config.attention is not None else config.replaced(attention=format.attention)

    @classmethod
    def needs(cls, config: ReadConfig) -> Needs:
        return Needs(config.attention or "mean", positions="readout" if config.attention == "none" else "all")

    def context(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return the last READ state of every stack before the readout stack, [B, S, R] each."""
        names = [name for name in self.stacks if name != self.readout]
        return {name: self.stacks[name](batch.stacks[name], generator=generator)[-1] for name in names}

    def corrected(self, batch: Batch, context: Any, generator: torch.Generator | None = None) -> Tensor:
        return batch.final + self.correction(batch, context, generator)

    def correction(self, batch: Batch, context: Any, generator: torch.Generator | None) -> Tensor:
        """Return U h_N, [B, T, D]."""
        encoded = context.get(self.shape.stacks[-1].attends_to)
        states = self.stacks[self.readout](batch.stacks[self.readout], encoded, generator)
        h = states[-1] if self.config.aggregate == "last" else torch.stack(states).mean(dim=0)
        return F.linear(h, self.U)

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        for name, stack in self.stacks.items():
            if isinstance(stack.standardiser, Standardiser):
                stack.standardiser.take(statistics[name].of(self.shape.layers[name]))
