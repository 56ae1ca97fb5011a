"""What turns repeated reads into one number."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from read_cache.meters.readings import Missing, Quantity

Read = TypeVar("Read")


class UnreadableError(Exception):
    """Why a quantity cannot be measured here."""


class Gauge(Protocol):
    """One quantity of a stage. Whatever it raises is why the quantity is missing."""

    def start(self) -> None:
        """Called once, when the stage begins."""

    def sample(self, seconds: float) -> None:
        """Called again and again, and when the stage ends, with the seconds since the call before."""

    def total(self) -> float:
        """The quantity so far."""


class Counter:
    """What a counter of energy has grown by. One that wraps must be sampled at least once a round.

    One that stands still, as in some virtual machines or in a stage that is too short for it, measures nothing.
    """

    def __init__(self, read: Callable[[], float], wraps_at: float | None = None) -> None:
        self._read, self._wraps_at = read, wraps_at
        self._grown = self._last = 0.0

    def start(self) -> None:
        self._last = self._read()

    def sample(self, seconds: float) -> None:
        now = self._read()
        if now < self._last:
            if self._wraps_at is None:
                raise UnreadableError(f"its counter went back, from {self._last:g} to {now:g}")
            self._last -= self._wraps_at
        self._grown += now - self._last
        self._last = now

    def total(self) -> float:
        if self._grown == 0:
            raise UnreadableError("its counter has not moved")
        return self._grown


class Peak:
    """The highest value since the start, of something that keeps it by itself."""

    def __init__(self, reset: Callable[[], None], read: Callable[[], float]) -> None:
        self.start, self.total = reset, read

    def sample(self, seconds: float) -> None:
        """Nothing to do."""


class BusyTime:
    """Seconds at full utilisation that the utilisation sampled amounts to: Eq. 3 without p0, summed as in Eq. 4.

        E = integral of u(t)/100 p0 dt  ~  p0 sum_i u_i/100 dt_i

    Each sample u_i, in percent, stands for the time dt_i since the one before; in the paper dt_i is a minute, which
    makes this sum(u_i) p0 / 6000 kWh.
    """

    def __init__(self, read_percent: Callable[[], float]) -> None:
        self._read_percent = read_percent
        self._busy_seconds = 0.0

    def start(self) -> None:
        self._read_percent()

    def sample(self, seconds: float) -> None:
        self._busy_seconds += self._read_percent() / 100 * seconds

    def total(self) -> float:
        return self._busy_seconds


class Guarded:
    """A gauge that never raises: once a read has failed, its quantity is missing for the rest of the session."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._missing: Missing | None = None

    def start(self) -> None:
        self._try(self._gauge.start)

    def sample(self, seconds: float) -> None:
        if self._missing is None:
            self._try(lambda: self._gauge.sample(seconds))

    def total(self) -> Quantity:
        return attempt(self._gauge.total) if self._missing is None else self._missing

    def _try(self, step: Callable[[], None]) -> None:
        found = attempt(step)
        if isinstance(found, Missing):
            self._missing = found


def attempt(read: Callable[[], Read]) -> Read | Missing:
    """What `read` returns, or why it failed. Every exception is caught: a meter must not end the run it measures."""
    try:
        return read()
    except UnreadableError as error:
        return Missing(str(error))
    except Exception as error:
        return Missing(f"{type(error).__name__}: {error}")
