"""Padded token batches, from sequences or from a store's plan arrays; trees of positions in one sequence.

Shape letters: B example, S position, H head.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from read_cache.ancestors import ancestors
from read_cache.store.layout import pad_integers, plan_slices
from read_cache.store.spec import BackboneSpec


@dataclasses.dataclass(frozen=True)
class StackTokens:
    """The tokens of one stack, padded on the right."""

    ids: Tensor
    """[B, S] int64."""
    mask: Tensor
    """[B, S] bool: True where a token is real."""
    token_type: Tensor | None = None
    """[B, S] int64."""
    parent: list[np.ndarray] | None = None
    """By example, [positions] int: the position before each, -1 at the root. None: a chain."""

    @staticmethod
    def pad(
        ids: Sequence[np.ndarray],
        token_type: Sequence[np.ndarray] | None = None,
        parent: Sequence[np.ndarray] | None = None,
        padding: int = 0,
    ) -> "StackTokens":
        """Pad sequences [n] to the longest; `padding` is the token that stands at the padded positions."""
        lengths = torch.tensor([len(sequence) for sequence in ids])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        types = None if token_type is None else torch.from_numpy(pad_integers(token_type, 0))
        return StackTokens(
            torch.from_numpy(pad_integers(ids, padding)), mask, types, None if parent is None else list(parent)
        )

    def after(self, count: int) -> "StackTokens":
        """Return the tokens after `count` real positions of token 0 and type 0, which every root follows."""
        ids, mask = F.pad(self.ids, (count, 0)), F.pad(self.mask, (count, 0), value=True)
        types = None if self.token_type is None else F.pad(self.token_type, (count, 0))
        first = np.arange(-1, count - 1)
        parent = self.parent and [np.concatenate([first, parent + count]) for parent in self.parent]
        return StackTokens(ids, mask, types, parent)

    def to(self, device: str | torch.device) -> "StackTokens":
        types = None if self.token_type is None else self.token_type.to(device)
        return StackTokens(self.ids.to(device), self.mask.to(device), types, self.parent)


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """The tokens of every stack for the same examples."""

    stacks: dict[str, StackTokens]

    def __len__(self) -> int:
        return len(next(iter(self.stacks.values())).ids)

    def to(self, device: str | torch.device) -> "TokenBatch":
        return TokenBatch({name: tokens.to(device) for name, tokens in self.stacks.items()})

    @staticmethod
    def of_plan(
        spec: BackboneSpec, plan: Mapping[str, np.ndarray], rows: Sequence[int], padding: int = 0
    ) -> "TokenBatch":
        """Return the tokens of some rows of a split, from its plan arrays; rows count in the order of the store."""
        stacks = {}
        for stack in spec.stacks:
            names = (f"{stack.name}/{kind}" for kind in ("token", "token_type", "parent"))
            ids, token_type, parent = (plan_slices(plan, name, rows) if name in plan else None for name in names)
            assert ids is not None
            stacks[stack.name] = StackTokens.pad(ids, token_type, parent, padding)
        return TokenBatch(stacks)


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
