"""Two sides of a comparison in one process, in turn, and how far their ratio spreads over repeats."""

import dataclasses
import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Facts = dict[str, int | float | str]
Seconds = dict[str, list[float]]
"""By side: one time a repeat."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How one side compares with another, repeat by repeat."""

    name: str
    values: tuple[float, ...]
    target: str = ""
    """What it should be, for people; nothing is asserted."""

    @property
    def median(self) -> float:
        """The middle of the repeats."""
        return statistics.median(self.values)

    def to_json(self) -> dict[str, Any]:
        """With the median and the extremes."""
        spread = {"median": self.median, "min": min(self.values), "max": max(self.values)}
        return {"name": self.name, "target": self.target, **spread, "repeats": list(self.values)}


@dataclasses.dataclass(frozen=True)
class Result:
    """What one part of the bench found."""

    part: str
    facts: Facts
    """What was run, how much of it, and rates; units are in the names."""
    seconds: Seconds = dataclasses.field(default_factory=dict)
    ratios: tuple[Ratio, ...] = ()
    table: tuple[Facts, ...] = ()
    """Rows of one more table, where a part has one."""

    def to_json(self) -> dict[str, Any]:
        """Every repeat of everything."""
        ratios = [ratio.to_json() for ratio in self.ratios]
        return {"facts": self.facts, "seconds": self.seconds, "ratios": ratios, "table": list(self.table)}


def alternate(sides: Mapping[str, Callable[[], float]], repeats: int) -> Seconds:
    """Run all sides once a repeat, in an order that turns; each gives its seconds. A first round is not counted."""
    names, seconds = list(sides), Seconds({name: [] for name in sides})
    for repeat in range(-1, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            taken = sides[name]()
            if repeat >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(name: str, over: Sequence[float], under: Sequence[float], target: str = "") -> Ratio:
    """`over` / `under`, repeat by repeat."""
    return Ratio(name, tuple(a / b for a, b in zip(over, under, strict=True)), target)
