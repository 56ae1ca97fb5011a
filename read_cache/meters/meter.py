"""The context manager that measures a stage."""

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from read_cache.meters.gauges import (
    POWERCAP,
    PROC,
    Board,
    BusyTime,
    Counter,
    Gauge,
    Peak,
    UnreadableError,
    host_peak,
    rapl,
)
from read_cache.meters.readings import Readings

ON_BOARDS = ("device_peak_bytes", "device_energy_joules", "device_busy_seconds", "p0_watts")


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
            session = self._session()
        return session if self._earlier is None else self._earlier + session

    def sample(self) -> None:
        """Sample every gauge that has not failed."""
        with self._lock:
            now = self._clock()
            seconds, self._last = now - self._last, now
            for name in self._gauges.keys() - self._failed.keys():
                _attempt(self._failed, name, functools.partial(self._gauges[name].sample, seconds))
            self._wall_seconds += seconds

    def _sample_until_end(self) -> None:
        while not self._ended.wait(self._period_seconds):
            self.sample()

    def _session(self) -> Readings:
        missing = dict(self._failed)
        values = {name: _attempt(missing, name, self._gauges[name].total) for name in self._gauges.keys() - missing}
        values["p0_watts"], busy_seconds = self._p0_watts, values.get("device_busy_seconds")
        if busy_seconds is None or self._p0_watts is None:
            missing["device_energy_eq4_joules"] = missing.get("device_busy_seconds") or missing["p0_watts"]
        else:
            values["device_energy_eq4_joules"] = busy_seconds * self._p0_watts
        missing = {name: why for name, why in missing.items() if values.get(name) is None}
        return Readings(stage=self._stage, wall_seconds=self._wall_seconds, missing=missing, **values)


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
