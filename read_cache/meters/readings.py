"""The result of a meter, and where a store keeps those of its extraction: one file a session.

They are not part of a store's content: no digest covers them, and `verify` ignores them.
"""

import contextlib
import functools
import json
import operator
from typing import Any

from pydantic import Field

from read_cache.settings import Record, parse
from read_cache.store.files import Files

FOLDER = "meters"
"""Folder of the files within a store."""


class Readings(Record):
    """Measurements of one stage, in one session or in several sessions that were added."""

    stage: str
    sessions: int = 1
    wall_seconds: float
    host_peak_bytes: float | None = None
    """Peak resident memory of the process, mapped files included."""
    device_peak_bytes: float | None = None
    """Peak of the device memory that tensors used."""
    device_energy_joules: float | None = None
    """By the board's own counter."""
    device_energy_eq4_joules: float | None = None
    """By the READ paper's Eq. 4: `device_busy_seconds` times `p0_watts`."""
    device_busy_seconds: float | None = None
    """Integral of the utilisation, from 0 to 1. Times another p0 it is Eq. 4 with that p0."""
    p0_watts: float | None = None
    """The device's power at full utilisation, in Eq. 4."""
    cpu_energy_joules: float | None = None
    dram_energy_joules: float | None = None
    missing: dict[str, str] = Field(default_factory=dict)
    """A short reason for each quantity that is None."""

    def __add__(self, other: "Readings") -> "Readings":
        """Return two sessions of one stage as one. A quantity that one of them lacks is None in the sum."""
        assert self.stage == other.stage
        values: dict[str, Any] = {"stage": self.stage, "p0_watts": self.p0_watts}
        if self.p0_watts != other.p0_watts:
            values["p0_watts"] = None
        for name in type(self).model_fields.keys() - {"stage", "p0_watts", "missing"}:
            first, second = getattr(self, name), getattr(other, name)
            if first is not None and second is not None:
                values[name] = max(first, second) if name.endswith("peak_bytes") else first + second
        missing = {"p0_watts": "sessions differ"} | other.missing | self.missing
        return Readings(**values, missing={name: why for name, why in missing.items() if values.get(name) is None})


def keep_readings(files: Files, session: str, readings: Readings) -> None:
    """Write a session's readings so far into a store. A write that fails is skipped: a meter must end no run."""
    with contextlib.suppress(Exception):
        files.write(f"{FOLDER}/{session}.json", json.dumps(readings.values()).encode())


def read_sessions(files: Files) -> Readings | None:
    """Return the sum of a store's sessions; None if it keeps none or one cannot be read.

    Sessions of workers add up too: of workers on one machine, each has the energy of the whole machine.
    """
    with contextlib.suppress(Exception):
        names = sorted(name for name in files.sizes(FOLDER) if name.endswith(".json"))
        return functools.reduce(operator.add, (parse(Readings, json.loads(files.read(name)), name) for name in names))
    return None


def summary(readings: Readings) -> str:
    """Return time, memory and energy of a stage in one line; a quantity without a value is left out."""
    sessions = f" in {readings.sessions} sessions" if readings.sessions > 1 else ""
    peaks = {"": readings.host_peak_bytes, "device ": readings.device_peak_bytes}
    memory = ", ".join(f"{name}{count / 1e9:.3g} GB" for name, count in peaks.items() if count is not None)
    energies = {
        "device": readings.device_energy_joules,
        f"device by Eq. 4 with p0 = {readings.p0_watts or 0:g} W": readings.device_energy_eq4_joules,
        "CPU": readings.cpu_energy_joules,
        "DRAM": readings.dram_energy_joules,
    }
    energy = ", ".join(f"{name} {joules:.4g} J" for name, joules in energies.items() if joules is not None)
    return (
        f"{readings.stage}: {readings.wall_seconds:.1f} s{sessions}; peak memory: {memory or 'unknown'}; "
        f"energy: {energy or 'no meter'}"
    )
