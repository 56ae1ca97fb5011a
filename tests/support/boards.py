"""Accelerator boards and sysfs folders for tests, and stages on them whose joules can be worked out by hand."""

from collections.abc import Callable, Iterator
from pathlib import Path

from read_cache.meters.meter import Board, Meter
from read_cache.meters.readings import Readings

NEVER = 3600.0
"""A sampling period that is longer than any test."""


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeBoard(Board):
    """A board that gives one value of each list a read; an exception among them is raised."""

    def __init__(self, percent: object = 0.0, joules: object = 0.0, limit: object = 300.0) -> None:
        self._percent, self._joules, self._limit = feed(percent), feed(joules), feed(limit)
        self.reads = 0
        self.peak = 10**9

    def reset_peak(self) -> None:
        self.peak = 40

    def peak_bytes(self) -> int:
        return self.peak

    def energy_joules(self) -> float:
        return self._joules()

    def utilisation_percent(self) -> float:
        self.reads += 1
        return self._percent()

    def power_limit_watts(self) -> float:
        return self._limit()


def feed(values: object) -> Callable[[], float]:
    """Return a function that gives one value of a list after the other, or always the same value."""
    following: Iterator = iter(values) if isinstance(values, list) else iter(lambda: values, object())

    def give() -> float:
        value = next(following)
        if isinstance(value, Exception):
            raise value
        return value

    return give


def measure(board: Board | None, gaps: list[float], p0_watts: float | None = None, **where: Path) -> Readings:
    """Return the readings of a stage that is sampled after each gap of seconds; the last gap is its end."""
    clock = Clock()
    with Meter("train", board, p0_watts, period_seconds=NEVER, clock=clock, **where) as meter:
        for gap in gaps[:-1]:
            clock.now += gap
            meter.sample()
        clock.now += gaps[-1]
    return meter.read()


def why(readings: Readings, quantity: str) -> str:
    """Return why a quantity is missing."""
    assert getattr(readings, quantity) is None
    return readings.missing[quantity]


def zone(powercap: Path, number: str, name: str, microjoules: int, wraps_at: int = 10**9) -> Path:
    """Make a RAPL zone; returns its counter's file."""
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", wraps_at)):
        (folder / file).write_text(f"{text}\n")
    return folder / "energy_uj"
