"""The context manager that measures a stage, and its gauges, one for each quantity.

An exception of any method of a gauge is the reason why the quantity is missing.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import pynvml
import torch

from read_cache.meters.readings import Readings

POWERCAP = Path("/sys/class/powercap")
PROC = Path("/proc/self")
Source = tuple[Callable[[], float], float]
"""A function that reads an energy counter, and the value at which the counter wraps to 0."""
ON_BOARDS = ("device_peak_bytes", "device_energy_joules", "device_busy_seconds", "p0_watts")


class UnreadableError(Exception):
    """A short reason why a quantity cannot be measured."""


class Gauge(Protocol):
    """One quantity of a stage, which begins at `start`.

    `sample` is called repeatedly and when the stage ends, with the seconds since the previous call. `total` returns the
    quantity so far.
    """

    def start(self) -> None:
        return

    def sample(self, seconds: float) -> None:
        return

    def total(self) -> float: ...


class Counter(Gauge):
    """Growth of energy counters, in joules; `unit` is the joules of one count.

    A counter must be sampled before it wraps twice. A counter that never moves, as in some virtual machines, measures
    nothing.
    """

    def __init__(self, find_sources: Callable[[], Sequence[Source]], unit: float = 1.0) -> None:
        self._find_sources, self._unit = find_sources, unit

    def start(self) -> None:
        self._sources = self._find_sources()
        self._last = [read() for read, _ in self._sources]
        self._growth = [0.0] * len(self._last)

    def sample(self, seconds: float) -> None:
        for index, (read, wraps_at) in enumerate(self._sources):
            value, last = read(), self._last[index]
            if value < last and not wraps_at:
                raise UnreadableError(f"counter fell from {last:g} to {value:g}")
            self._growth[index] += value - last + (wraps_at if value < last else 0)
            self._last[index] = value

    def total(self) -> float:
        if not all(self._growth):
            raise UnreadableError("counter did not move")
        return sum(self._growth) * self._unit


def rapl(kind: str, powercap: Path = POWERCAP) -> Counter:
    """Return a counter over all RAPL zones of a kind: `package` (processors) or `dram`.

    Zones of other kinds are parts of a package, or include one. RAPL counts microjoules; a large processor's counter
    wraps within minutes.
    """

    def find_zones() -> list[Source]:
        zones = [zone for zone in powercap.glob("intel-rapl:*") if (zone / "name").read_text().startswith(kind)]
        if not zones:
            raise UnreadableError("no meter")
        return [(partial(_number, zone / "energy_uj"), _number(zone / "max_energy_range_uj")) for zone in zones]

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


class Peak(Gauge):
    """Peak of memory, in bytes."""

    def __init__(self, reset: Callable[[], object], read: Callable[[], int]) -> None:
        self._reset, self._read = reset, read

    def start(self) -> None:
        self._reset()

    def total(self) -> int:
        return self._read()


def host_peak(proc: Path = PROC) -> Peak:
    """Return a gauge of this process's resident memory by the kernel's high-water mark VmHWM. Linux only.

    Where the mark cannot be reset, a stage's peak is unknown.
    """

    def high_water() -> int:
        status = (proc / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    return Peak(lambda: (proc / "clear_refs").write_text("5"), high_water)


class Board:
    """One NVIDIA board and the memory of its tensors.

    NVML numbers boards differently from CUDA, so the board is found by its UUID. Boards from Volta on have an energy
    counter, in millijoules, which moves about every 100 ms.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    @cached_property
    def _handle(self) -> Any:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(self._device).uuid}")

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)

    def energy_joules(self) -> float:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000

    def utilisation_percent(self) -> float:
        return pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu

    def power_limit_watts(self) -> float:
        return pynvml.nvmlDeviceGetEnforcedPowerLimit(self._handle) / 1000


def _number(path: Path) -> int:
    return int(path.read_text())


class Meter:
    """Measures a stage while it is open, on a thread that samples every `period_seconds`.

    `board` is the accelerator, or None. `p0_watts` is its power at full utilisation in Eq. 4, by default its power
    limit. Peaks of memory belong to the process, so only one meter may be open. A gauge that fails makes its quantity
    missing and nothing else.
    """

    def __init__(
        self,
        stage: str,
        board: Board | None,
        p0_watts: float | None = None,
        *,
        period_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        powercap: Path = POWERCAP,
        proc: Path = PROC,
    ) -> None:
        self._stage, self._board, self._p0_watts = stage, board, p0_watts
        self._period_seconds, self._clock = period_seconds, clock
        self._failed: dict[str, str] = {}
        self._gauges: dict[str, Gauge] = {
            "host_peak_bytes": host_peak(proc),
            "cpu_energy_joules": rapl("package", powercap),
            "dram_energy_joules": rapl("dram", powercap),
        }
        if board is None:
            self._failed = dict.fromkeys(ON_BOARDS, "no meter")
        else:
            self._gauges |= {
                "device_peak_bytes": Peak(board.reset_peak, board.peak_bytes),
                "device_energy_joules": Counter(lambda: [(board.energy_joules, 0)]),
                "device_busy_seconds": BusyTime(board.utilisation_percent),
            }
        self._last = self._wall_seconds = 0.0
        self._earlier: Readings | None = None
        self._final: Readings | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._sample_until_end, name=f"meter-{stage}", daemon=True)

    def __enter__(self) -> "Meter":
        if self._board is not None and self._p0_watts is None:
            self._p0_watts = _attempt(self._failed, "p0_watts", self._board.power_limit_watts)
        for name, gauge in self._gauges.items():
            _attempt(self._failed, name, gauge.start)
        self._last = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._final = self.read()

    def go_on_from(self, earlier: Readings) -> None:
        """Add the readings of earlier sessions of an interrupted run."""
        self._earlier = earlier

    def read(self) -> Readings:
        """Return the readings so far, earlier sessions included; after the end, the final ones."""
        if self._final is not None:
            return self._final
        self.sample()
        with self._lock:
            missing = dict(self._failed)
            values = {name: _attempt(missing, name, self._gauges[name].total) for name in self._gauges.keys() - missing}
            values["p0_watts"], busy_seconds = self._p0_watts, values.get("device_busy_seconds")
            if busy_seconds is None or self._p0_watts is None:
                missing["device_energy_eq4_joules"] = missing.get("device_busy_seconds") or missing["p0_watts"]
            else:
                values["device_energy_eq4_joules"] = busy_seconds * self._p0_watts
            missing = {name: why for name, why in missing.items() if values.get(name) is None}
            session = Readings(stage=self._stage, wall_seconds=self._wall_seconds, missing=missing, **values)
        return session if self._earlier is None else self._earlier + session

    def sample(self) -> None:
        """Sample every gauge that has not failed."""
        with self._lock:
            now = self._clock()
            seconds, self._last = now - self._last, now
            for name in self._gauges.keys() - self._failed.keys():
                _attempt(self._failed, name, partial(self._gauges[name].sample, seconds))
            self._wall_seconds += seconds

    def _sample_until_end(self) -> None:
        while not self._ended.wait(self._period_seconds):
            self.sample()


def meter_stage(stage: str, device: str, p0_watts: float | None = None) -> Meter:
    """Return a meter of this process and one torch device."""
    return Meter(stage, Board(device) if torch.device(device).type == "cuda" else None, p0_watts)


def _attempt(failed: dict[str, str], name: str, step: Callable[[], Any]) -> Any:
    """Return what `step` returns, or note why it failed. A meter must not end the run that it measures."""
    try:
        return step()
    except Exception as error:
        failed[name] = str(error) if isinstance(error, UnreadableError) else f"{type(error).__name__}: {error}"
        return None
