"""The place of every example in the arrays. It follows from lengths and settings, before the backbone is loaded."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, lru_cache

import numpy as np

from read_cache.store.spec import StackSpec


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of one split."""

    stacks: tuple[StackSpec, ...]
    lengths: Mapping[str, np.ndarray]
    """By stack: positions of each example, [examples] int32, in the order of the store."""
    part_start: np.ndarray
    """[parts + 1] int64: part p holds examples part_start[p] : part_start[p + 1]."""
    selected: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """By flat axis of states that are not stored at every position: entries of each example, [examples] int32."""

    @property
    def length(self) -> np.ndarray:
        """Positions of each example in the first stack, [examples] int32."""
        return self.lengths[self.stacks[0].name]

    @property
    def parts(self) -> int:
        return len(self.part_start) - 1

    @cached_property
    def extents(self) -> dict[str, np.ndarray]:
        """By flat axis: entries that each example takes, [examples] int64."""
        extents = {}
        for stack in self.stacks:
            length = self.lengths[stack.name].astype(np.int64)
            extents[f"{stack.name}_token"] = length
            extents[f"{stack.name}_pair"] = length * (length + 1) // 2 if stack.causal else length * length
            if stack.attends_to:
                extents[f"{stack.name}_cross"] = length * self.lengths[stack.attends_to]
        return extents | {axis: counts.astype(np.int64) for axis, counts in self.selected.items()}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """By flat axis: chunk size, which is what the fullest part takes."""
        starts = self.part_start[:-1]
        return {axis: int(np.add.reduceat(extent, starts).max()) for axis, extent in self.extents.items()}

    @cached_property
    def offsets(self) -> dict[str, np.ndarray]:
        """By flat axis: first index of each example, [examples] int64."""
        part_of = np.repeat(np.arange(self.parts), np.diff(self.part_start))
        offsets = {}
        for axis, extent in self.extents.items():
            ends = np.cumsum(extent)
            before_part = (ends - extent)[self.part_start[:-1]]
            offsets[axis] = ends - extent - before_part[part_of] + part_of * self.sizes[axis]
        return offsets

    def examples(self, part: int) -> slice:
        return slice(int(self.part_start[part]), int(self.part_start[part + 1]))


def plan_parts(stacks: Sequence[StackSpec], lengths: Mapping[str, np.ndarray], part_tokens: int) -> Layout:
    """Cut consecutive examples into parts of at most `part_tokens` positions in each stack.

    The budget is what the fewest possible parts need, so parts have like sizes. An example longer than the budget makes
    a part of its own.
    """
    extents = [lengths[stack.name] for stack in stacks]
    fewest = max(-(-int(extent.sum()) // part_tokens) for extent in extents)
    budgets = [min(part_tokens, -(-int(extent.sum()) // fewest) + int(extent.max())) for extent in extents]
    starts, filled = [0], [0] * len(extents)
    for index, counts in enumerate(zip(*(extent.tolist() for extent in extents), strict=True)):
        sums = [before + count for before, count in zip(filled, counts, strict=True)]
        if index > starts[-1] and any(total > budget for total, budget in zip(sums, budgets, strict=True)):
            starts.append(index)
            sums = list(counts)
        filled = sums
    return Layout(tuple(stacks), dict(lengths), np.array([*starts, len(extents[0])], dtype=np.int64))


def plan_slices(
    plan: Mapping[str, np.ndarray], name: str, rows: Sequence[int] | np.ndarray, kind: str = "token"
) -> list[np.ndarray]:
    """Return some examples' entries of a plan array on a flat axis of that kind."""
    stack, flat = name.partition("/")[0], plan[name]
    starts = plan[f"{stack}/{kind}_offset"][rows].tolist()
    lengths = plan[f"{stack}/length" if kind == "token" else f"{stack}/{kind}_length"][rows].tolist()
    return [flat[start : start + n] for start, n in zip(starts, lengths, strict=True)]


@lru_cache(maxsize=1024)
def triangle(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (to, from) of the entries of a causal stack's attention weights, in the order they are stored."""
    return np.tril_indices(size)


def pad_integers(sequences: Collection[np.ndarray], value: int) -> np.ndarray:
    """Return sequences [n] side by side, [B, longest] int64, padded with `value`."""
    padded = np.full((len(sequences), max(map(len, sequences))), value, np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded
