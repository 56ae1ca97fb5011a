"""RNN, GRU and LSTM, with the input's share of the gates given, so that all layers' inputs project in one product.

The equations and the order of the gates are those of torch.nn.RNNCell, GRUCell and LSTMCell.
"""

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""(h,), or (h, c) for the LSTM; each [..., R]."""


def rnn(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """tanh(W_ih x + W_hh h); one gate."""
    return (torch.tanh(from_input + from_state),)


def gru(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """Gates in the order reset, update, new."""
    reset_x, update_x, new_x = from_input.chunk(3, dim=-1)
    reset_h, update_h, new_h = from_state.chunk(3, dim=-1)
    update = torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return (new + update * (state[0] - new),)


def lstm(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """Gates in the order input, forget, cell, output."""
    enter, forget, cell, output = (from_input + from_state).chunk(4, dim=-1)
    memory = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(cell)
    return torch.sigmoid(output) * torch.tanh(memory), memory


CELL_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, State], State]] = {"rnn": rnn, "gru": gru, "lstm": lstm}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
"""Gates of each cell: how many times R rows its weight matrices have."""
STATES = {"rnn": 1, "gru": 1, "lstm": 2}
"""Tensors in each cell's state."""
