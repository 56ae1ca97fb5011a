"""Gauges: each turns repeated samples into one quantity. An exception of any method is why the quantity is missing."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pynvml

POWERCAP = Path("/sys/class/powercap")
PROC = Path("/proc/self")
Source = tuple[Callable[[], float], float | None]
"""Reads a counter, and the value at which it wraps to 0 (None: never)."""


class UnreadableError(Exception):
    """A short reason why a quantity cannot be measured."""


class Gauge:
    """One quantity of a stage."""

    def start(self) -> None:
        """Called once, when the stage begins."""

    def sample(self, seconds: float) -> None:
        """Called repeatedly, and when the stage ends, with the seconds since the previous call."""

    def total(self) -> float:
        """Return the quantity so far."""
        raise NotImplementedError


class Counter(Gauge):
    """Growth of one or more energy counters, times `unit`.

    A counter that wraps must be sampled at least once a round. One that never moves, as in some virtual machines,
    measures nothing.
    """

    def __init__(self, find_sources: Callable[[], Sequence[Source]], unit: float = 1.0) -> None:
        self._find_sources, self._unit = find_sources, unit

    def start(self) -> None:
        self._sources = self._find_sources()
        self._last = [read() for read, _ in self._sources]
        self._growth = [0.0] * len(self._last)

    def sample(self, seconds: float) -> None:
        for place, (read, wraps_at) in enumerate(self._sources):
            value, last = read(), self._last[place]
            if value < last and wraps_at is None:
                raise UnreadableError(f"its counter fell from {last:g} to {value:g}")
            self._growth[place] += value - last + (wraps_at or 0.0) * (value < last)
            self._last[place] = value

    def total(self) -> float:
        if not all(self._growth):
            raise UnreadableError("its counter did not move")
        return sum(self._growth) * self._unit


def rapl(kind: str, powercap: Path = POWERCAP) -> Counter:
    """Return a counter of the joules of all RAPL zones of a kind: `package` (processors) or `dram`.

    Other zones are parts of a package, or include it. The counters are in microjoules and wrap, within minutes on
    large processors.
    """

    def find_zones() -> list[Source]:
        zones = [zone for zone in powercap.glob("intel-rapl:*") if _text(zone / "name").startswith(kind)]
        if not zones:
            raise UnreadableError("no meter")
        ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
        return [(functools.partial(_number, zone / "energy_uj"), end) for zone, end in zip(zones, ranges, strict=True)]

    return Counter(find_zones, 1e-6)


class BusyTime(Gauge):
    """Seconds at full utilisation: the sum in the READ paper's Eq. 4, without p0.

        E = integral of u(t)/100 p0 dt  ~  p0 sum_i u_i/100 dt_i

    Each sample u_i, in percent, holds for the time dt_i since the previous one. The paper's dt_i is a minute, which
    gives its sum(u_i) p0 / 6000 kWh.
    """

    def __init__(self, read_percent: Callable[[], float]) -> None:
        self._read_percent, self._seconds = read_percent, 0.0

    def start(self) -> None:
        self._read_percent()

    def sample(self, seconds: float) -> None:
        self._seconds += self._read_percent() / 100 * seconds

    def total(self) -> float:
        return self._seconds


class HostPeak(Gauge):
    """Peak resident memory of this process, in bytes. Linux only.

    The kernel keeps one high-water mark a process, VmHWM. It is reset at the start. Where that is not allowed, the
    mark is the peak of the stage only if it rises.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc, self._first = proc, 0

    def start(self) -> None:
        self._first = self._high_water()
        try:
            (self._proc / "clear_refs").write_text("5")
        except OSError:
            return
        self._first = 0

    def total(self) -> int:
        peak = self._high_water()
        if peak == self._first:
            raise UnreadableError("the process had its peak before the stage")
        return peak

    def _high_water(self) -> int:
        for line in _text(self._proc / "status").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise UnreadableError(f"{self._proc}/status has no VmHWM")


class DevicePeak(Gauge):
    """Peak of the device memory that tensors use, in bytes."""

    def __init__(self, reset: Callable[[], None], read: Callable[[], int]) -> None:
        self.start, self.total = reset, read  # type: ignore[method-assign]


class Board:
    """One NVIDIA board, found by its UUID (NVML numbers boards differently from CUDA), and its tensors' memory.

    Boards from Volta on have an energy counter, in millijoules, which moves about every 100 ms.
    """

    def __init__(self, uuid: str, reset_peak: Callable[[], None], peak_bytes: Callable[[], int]) -> None:
        self._uuid, self.reset_peak, self.peak_bytes = uuid, reset_peak, peak_bytes

    @functools.cached_property
    def _handle(self) -> Any:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(self._uuid)

    def gauges(self) -> dict[str, Gauge]:
        """Return a gauge of each quantity in `Readings` that a board has."""
        return {
            "device_peak_bytes": DevicePeak(self.reset_peak, self.peak_bytes),
            "device_energy_joules": Counter(lambda: [(self.energy_joules, None)]),
            "device_busy_seconds": BusyTime(self.utilisation_percent),
        }

    def energy_joules(self) -> float:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000

    def utilisation_percent(self) -> float:
        return pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu

    def power_limit_watts(self) -> float:
        return pynvml.nvmlDeviceGetEnforcedPowerLimit(self._handle) / 1000


def _number(path: Path) -> int:
    return int(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from error
