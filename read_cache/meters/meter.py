"""The context manager that measures a stage."""

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

from read_cache.errors import UserError
from read_cache.meters.gauges import BusyTime, Counter, Guarded, Peak, attempt
from read_cache.meters.host import PROC, HostPeak
from read_cache.meters.nvml import Device
from read_cache.meters.rapl import POWERCAP, RaplEnergy
from read_cache.meters.readings import Missing, Quantity, Readings

PERIOD_SECONDS = 1.0


class Meter:
    """Measures a stage while it is open, about once a second, on a thread that ends with it.

    `p0_watts` is the device's power at full utilisation in Eq. 4, by default the board's power limit. Peaks of memory
    belong to the process and are reset: one meter at a time. Raises UserError for a p0 that is no power.
    """

    def __init__(
        self,
        stage: str,
        device: Device,
        p0_watts: float | None = None,
        *,
        period_seconds: float = PERIOD_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        powercap: Path = POWERCAP,
        proc: Path = PROC,
    ) -> None:
        if p0_watts is not None and not 0 < p0_watts < math.inf:
            raise UserError(f"p0 is {p0_watts} W, expected more than 0: the device's power at full utilisation")
        self._stage, self._device, self._p0_given = stage, device, p0_watts
        self._period_seconds, self._clock = period_seconds, clock
        self._host_peak = Guarded(HostPeak(proc))
        self._device_peak = Guarded(Peak(device.reset_peak, device.peak_bytes))
        self._device_energy = Guarded(Counter(device.energy_joules))
        self._busy = Guarded(BusyTime(device.utilisation_percent))
        self._cpu_energy = Guarded(RaplEnergy("package", powercap))
        self._dram_energy = Guarded(RaplEnergy("dram", powercap))
        self._gauges = (
            self._host_peak, self._device_peak, self._device_energy, self._busy, self._cpu_energy, self._dram_energy,
        )  # fmt: skip
        self._p0: Quantity = Missing("the stage has not begun")
        self._last = self._wall_seconds = self._sampling_cpu_seconds = 0.0
        self._earlier: Readings | None = None
        self._final: Readings | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._sample_until_end, name=f"meter-{stage}", daemon=True)

    def __enter__(self) -> "Meter":
        self._p0 = attempt(self._device.power_limit_watts) if self._p0_given is None else self._p0_given
        for gauge in self._gauges:
            gauge.start()
        self._last = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._final = self.read()

    def go_on_from(self, earlier: Readings) -> None:
        """Count what earlier sessions of an interrupted run took."""
        self._earlier = earlier

    def read(self) -> Readings:
        """The readings so far, with those of earlier sessions; after the end, the final ones."""
        if self._final is not None:
            return self._final
        self.sample()
        with self._lock:
            session = self._session()
        return session if self._earlier is None else self._earlier + session

    def sample(self) -> None:
        """Read every gauge once."""
        with self._lock:
            began, now = time.thread_time(), self._clock()
            seconds, self._last = now - self._last, now
            for gauge in self._gauges:
                gauge.sample(seconds)
            self._wall_seconds += seconds
            self._sampling_cpu_seconds += time.thread_time() - began

    def _sample_until_end(self) -> None:
        while not self._ended.wait(self._period_seconds):
            self.sample()

    def _session(self) -> Readings:
        busy = self._busy.total()
        return Readings(
            stage=self._stage,
            sessions=1,
            wall_seconds=self._wall_seconds,
            sampling_cpu_seconds=self._sampling_cpu_seconds,
            host_peak_bytes=self._host_peak.total(),
            device_peak_bytes=self._device_peak.total(),
            device_energy_joules=self._device_energy.total(),
            device_energy_eq4_joules=_energy(busy, self._p0),
            device_busy_seconds=busy,
            p0_watts=self._p0,
            p0_source="the board's power limit" if self._p0_given is None else "given",
            cpu_energy_joules=self._cpu_energy.total(),
            dram_energy_joules=self._dram_energy.total(),
        )


def _energy(busy_seconds: Quantity, p0_watts: Quantity) -> Quantity:
    """Eq. 4, in joules."""
    if isinstance(busy_seconds, Missing):
        return busy_seconds
    if isinstance(p0_watts, Missing):
        return Missing(f"no p0 was given, and {p0_watts.why}")
    return busy_seconds * p0_watts
