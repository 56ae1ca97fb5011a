"""Sides of a comparison in one process, in turn, and the spread of their ratio over repeats."""

import dataclasses
import gc
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Facts = dict[str, Any]
"""Numbers and texts; units are in the names."""
Seconds = dict[str, list[float]]
"""By side: one time a repeat."""
drain = deque[object](maxlen=0).extend
"""Take every item of an iterator and keep none."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one part of the bench."""

    facts: Facts
    seconds: Seconds
    ratios: Sequence[Facts]


def clock(work: Callable[[], object]) -> float:
    """Return the seconds that a function takes, with the work that it leaves on a GPU."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def alternate(sides: Mapping[str, Callable[[], float]], repeats: int) -> Seconds:
    """Run all sides once a repeat, in an order that turns; each returns its seconds. A first round is not counted."""
    names, seconds = list(sides), Seconds({name: [] for name in sides})
    for repeat in range(-1, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            taken = sides[name]()
            if repeat >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Seconds, over: str, under: str, target: str) -> Facts:
    """Return the time of one side / that of another: name, target, median, extremes and every repeat."""
    values = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {"ratio": f"{over} / {under}", **spread, "target": target, "repeats": values}
