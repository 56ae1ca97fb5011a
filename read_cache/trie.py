"""The label trie: every decoder prefix at which the labels of a closed set part ways, and those on the way there.

A node is a decoder prefix. Node 0 is the empty prefix (only the start token has been fed). A prefix below which all
labels agree decides nothing and is not kept. Normalising the head's logits over the children of each node, and
multiplying along a label's path, is exact constrained decoding: the label probabilities sum to one.
"""

import dataclasses
import itertools
from functools import cached_property

import numpy as np

from read_cache.errors import UserError


@dataclasses.dataclass(frozen=True)
class LabelTrie:
    """A trie over the labels' token ids, each ending in eos."""

    label_ids: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.label_ids) == 1:
            raise UserError("there is one label, expected two or more")
        for (twin, ids), (index, other) in itertools.permutations(enumerate(self.label_ids), 2):
            if other[: len(ids)] == ids:
                raise UserError(
                    f"labels {twin} and {index} begin with the same tokens {list(ids)}: nothing tells them apart"
                )

    @cached_property
    def prefixes(self) -> tuple[tuple[int, ...], ...]:
        """Prefixes at nodes, shortest first, then in the order of the labels."""
        found: dict[tuple[int, ...], None] = {}
        for ids in self.label_ids:
            last_branch = max(depth for depth in range(len(ids)) if len(self._children(ids[:depth])) > 1)
            found.update(dict.fromkeys(ids[:depth] for depth in range(last_branch + 1)))
        return tuple(sorted(found, key=len))

    def _children(self, prefix: tuple[int, ...]) -> set[int]:
        return {ids[len(prefix)] for ids in self.label_ids if ids[: len(prefix)] == prefix and len(ids) > len(prefix)}

    @cached_property
    def tokens(self) -> np.ndarray:
        """[C] int64: the candidate tokens, sorted; logits are computed for these only."""
        return np.array(sorted(set().union(*map(self._children, self.prefixes))), dtype=np.int64)

    @cached_property
    def allowed(self) -> np.ndarray:
        """[nodes, C] bool: which candidate tokens may follow each node."""
        return np.array([np.isin(self.tokens, list(self._children(prefix))) for prefix in self.prefixes])

    @cached_property
    def paths(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each label, its (node, index of the candidate token that follows) pairs from the root."""
        index = {prefix: node for node, prefix in enumerate(self.prefixes)}
        where = {int(token): position for position, token in enumerate(self.tokens)}
        return tuple(
            tuple((index[ids[:depth]], where[ids[depth]]) for depth in range(len(ids)) if ids[:depth] in index)
            for ids in self.label_ids
        )
