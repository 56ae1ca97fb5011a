"""Trees of positions in one sequence: every position attends to itself and its ancestors.

Shape letters: B example, S position, H head.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from read_cache.ancestors import ancestors
from read_cache.backbones.tokens import StackTokens
from read_cache.store.layout import pad_integers


def attended_positions(tokens: StackTokens) -> Tensor:
    """Return [B, S, S] bool: position i attends to j, itself or an ancestor; padding attends to itself alone."""
    if tokens.parent is not None:
        return ancestors(torch.from_numpy(pad_integers(tokens.parent, -1)).to(tokens.ids.device))
    size = tokens.ids.shape[1]
    itself = torch.eye(size, dtype=torch.bool, device=tokens.ids.device)
    return itself.new_ones(size, size).tril() & tokens.mask[:, None] & tokens.mask[:, :, None] | itself


def additive_mask(attended_BSS: Tensor, dtype: torch.dtype) -> Tensor:
    """Return [B, 1, S, S]: 0 where a position attends, the dtype's lowest value elsewhere."""
    mask = torch.zeros(attended_BSS.shape, dtype=dtype, device=attended_BSS.device)
    return mask.masked_fill(~attended_BSS, torch.finfo(dtype).min)[:, None]


def is_chain(tokens: StackTokens) -> bool:
    """Return True if each position of every example follows the one before it."""
    return all(np.array_equal(parent, np.arange(-1, len(parent) - 1)) for parent in tokens.parent or ())


@contextlib.contextmanager
def at_depths(decoder: nn.Module, depth_BS: Tensor) -> Iterator[None]:
    """Let a T5 decoder count relative positions by depth in a tree, in this block."""

    def of_tree(compute_bias: Any, queries: int, keys: int, *args: Any, **named: Any) -> Tensor:
        before = keys - queries  # the keys of a prefix
        columns = F.pad(depth_BS + before, (before, 0))
        columns[:, :before] = torch.arange(before, device=depth_BS.device)
        bias_HSS = compute_bias(queries, keys, *args, **named)[0]
        return bias_HSS[:, depth_BS[:, :, None], columns[:, None]].transpose(0, 1)

    with contextlib.ExitStack() as stack:
        for part in decoder.modules():
            if hasattr(part, "relative_attention_bias"):
                compute_bias: Any = part.compute_bias
                part.compute_bias = lambda *args, own=compute_bias, **named: of_tree(own, *args, **named)  # type: ignore[assignment]
                stack.callback(delattr, part, "compute_bias")
        yield
