"""Where every example lies: a pure function of (lengths, settings), known before the backbone is loaded."""

import dataclasses
from functools import cached_property

import numpy as np

from read_cache.store.schema import FLAT_AXES


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of one split. `length` and `nodes` are [examples] int32, in the order of the store."""

    length: np.ndarray
    nodes: np.ndarray
    part_start: np.ndarray
    """[parts + 1] int64: part p holds examples part_start[p] : part_start[p + 1]."""

    @property
    def parts(self) -> int:
        """How many parts the split has."""
        return len(self.part_start) - 1

    @cached_property
    def extents(self) -> dict[str, np.ndarray]:
        """Places each example takes on each flat axis, [examples] int64."""
        length, nodes = self.length.astype(np.int64), self.nodes.astype(np.int64)
        return {
            "token": length,
            "pair": length * length,
            "node": nodes,
            "node_pair": nodes * nodes,
            "cross": nodes * length,
        }

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Chunk size on each flat axis: what the fullest part takes."""
        return {axis: int(np.add.reduceat(self.extents[axis], self.part_start[:-1]).max()) for axis in FLAT_AXES}

    @cached_property
    def offsets(self) -> dict[str, np.ndarray]:
        """First place of each example on each flat axis, [examples] int64."""
        part_of = np.repeat(np.arange(self.parts), np.diff(self.part_start))
        offsets = {}
        for axis, extent in self.extents.items():
            ends = np.cumsum(extent)
            before_part = (ends - extent)[self.part_start[:-1]]
            offsets[axis] = ends - extent - before_part[part_of] + part_of * self.sizes[axis]
        return offsets

    def examples(self, part: int) -> slice:
        """The examples of a part."""
        return slice(int(self.part_start[part]), int(self.part_start[part + 1]))


def plan_parts(length: np.ndarray, nodes: np.ndarray, part_tokens: int) -> Layout:
    """Cut consecutive examples into parts of at most `part_tokens` encoder tokens and as many decoder nodes.

    Parts are evened out: the budget is what the fewest possible parts need, so the last one is not a remnant.
    An example longer than the budget makes a part of its own.
    """
    budgets = []
    fewest = max(-(-int(extent.sum()) // part_tokens) for extent in (length, nodes))
    for extent in (length, nodes):
        even = -(-int(extent.sum()) // fewest) + int(extent.max())
        budgets.append(min(part_tokens, even))
    starts, tokens_here, nodes_here = [0], 0, 0
    for index, (tokens, count) in enumerate(zip(length.tolist(), nodes.tolist(), strict=True)):
        full = tokens_here + tokens > budgets[0] or nodes_here + count > budgets[1]
        if full and index > starts[-1]:
            starts.append(index)
            tokens_here = nodes_here = 0
        tokens_here += tokens
        nodes_here += count
    return Layout(length, nodes, np.array([*starts, len(length)], dtype=np.int64))
