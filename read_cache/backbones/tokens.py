"""Padded token batches: from sequences, or from a store's plan arrays."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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
        """Return a copy on a device."""
        types = None if self.token_type is None else self.token_type.to(device)
        return StackTokens(self.ids.to(device), self.mask.to(device), types, self.parent)


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """The tokens of every stack for the same examples."""

    stacks: dict[str, StackTokens]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(next(iter(self.stacks.values())).ids)

    def to(self, device: str | torch.device) -> "TokenBatch":
        """Return a copy on a device."""
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
