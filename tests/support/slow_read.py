"""READ by the letters of Equation 1: token by token and sum by sum, from a network's own parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from read_cache.loader.batch import Batch
from read_cache.networks.base import StackShape

CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}


def slow_read(network: nn.Module, batch: Batch) -> Tensor:
    """y of a READ network, [B, T, D], real positions only; padding is phi_N as it stands."""
    config, shape = network.config, network.shape
    p = dict(network.named_parameters())
    states: dict[str, dict[tuple[int, int], list[Tensor]]] = {}
    joined = config.attention != "none"
    for stack in shape.stacks if joined else shape.stacks[-1:]:
        encoded = {place: found[-1] for place, found in states.get(stack.attends_to or "", {}).items()}
        states[stack.name] = slow_stack(own(p, f"stacks.{stack.name}."), config, stack, batch, encoded)
    y = batch.final.clone()
    for (b, t), found in states[shape.readout].items():
        h = found[-1] if config.aggregate == "last" else sum(found) / len(found)
        y[b, t] += p["U"] @ h
    return y


def own(parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters below a prefix."""
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def slow_stack(
    p: Mapping[str, Tensor], config: object, stack: StackShape, batch: Batch, encoded: Mapping[tuple[int, int], Tensor]
) -> dict[tuple[int, int], list[Tensor]]:
    """By (example, position): h_1 … h_N of one stack."""
    given, found = batch.stacks[stack.name], {}
    for b in range(len(given.real)):
        places = given.real[b].nonzero()[:, 0].tolist()
        h, memory = {}, {}
        for a in places:
            zero = given.values.new_zeros(config.hidden)
            starts = config.initial_state == "embeddings"
            h[a] = torch.tanh(p["W_0"] @ given.values[0, b, a]) if starts else zero
            memory[a] = zero
            found[b, a] = []
        for i in range(len(stack.layers)):
            k = 0 if config.recurrent else i
            f = {a: p["F"][k] @ h[a] for a in places} if config.attention != "none" else {}
            new = {}
            for a in places:
                x = p["W_phi"][k] @ given.values[i + 1, b, a] + p["b"][k]
                if f:
                    psi = p["A"][k] @ f[a]
                    psi = psi + sum(
                        weight(p, "self", given.self_attention, i, b, a, c) * (p["B"][k] @ f[c]) for c in places
                    )
                    for (example, c), e in encoded.items():
                        if example == b:
                            psi = psi + weight(p, "cross", given.cross_attention, i, b, a, c) * (p["C"][k] @ e)
                    x = x + p["W_psi"][k] @ psi
                new[a], memory[a] = step(p, k, config, x, h[a], memory[a])
            h = new
            for a in places:
                found[b, a].append(h[a])
    return found


def weight(p: Mapping[str, Tensor], kind: str, attention: Tensor, i: int, b: int, a: int, c: int) -> Tensor:
    """One attention weight; heads are mixed by the softmax of learned logits."""
    if attention.dim() == 4:
        return attention[i, b, a, c]
    return p[f"mixture.{kind}"][i].softmax(0) @ attention[i, :, b, a, c]


def step(
    p: Mapping[str, Tensor], k: int, config: object, x: Tensor, h: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of torch's own cell whose input product is x, [gates * R]; an untied cell carries no state."""
    cell = CELLS[config.cell](len(x), config.hidden, dtype=x.dtype)
    weights = {name: torch.zeros_like(value) for name, value in cell.named_parameters()}
    weights["weight_ih"] = torch.eye(len(x), dtype=x.dtype)
    if config.recurrent:
        weights |= {"weight_hh": p["W_h"][k], "bias_hh": p["b_h"][k]}
    else:
        h, memory = torch.zeros_like(h), torch.zeros_like(h)
    if config.cell == "lstm":
        return torch.func.functional_call(cell, weights, (x, (h, memory)))
    return torch.func.functional_call(cell, weights, (x, h)), memory
