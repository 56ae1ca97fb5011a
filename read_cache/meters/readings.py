"""The result of a meter."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Missing:
    """A quantity that was not measured."""

    why: str


Quantity = float | Missing

NAMES = {
    "wall_seconds": "time",
    "host_peak_bytes": "host memory",
    "device_peak_bytes": "device memory",
    "device_energy_joules": "device energy by its counter",
    "device_energy_eq4_joules": "device energy by Eq. 4",
    "cpu_energy_joules": "CPU energy",
    "dram_energy_joules": "DRAM energy",
    "sampling_cpu_seconds": "a core's time, used by the meter",
    "device_busy_seconds": "device busy, integral of its utilisation",
    "p0_watts": "device power at full utilisation (p0)",
}
"""Quantities of a stage as people call them."""


@dataclasses.dataclass(frozen=True)
class Readings:
    """What one stage took, in one session or in several that were added: sums add up, peaks are the highest.

    A quantity that is missing in one session is missing in their sum, with that session's reason.
    """

    stage: str
    sessions: int
    wall_seconds: float
    sampling_cpu_seconds: float
    """What the meter itself used of one core."""
    host_peak_bytes: Quantity
    """Resident memory of the process, mapped files included."""
    device_peak_bytes: Quantity
    """What tensors took of the device's memory."""
    device_energy_joules: Quantity
    """By the board's own counter."""
    device_energy_eq4_joules: Quantity
    """By the paper's Eq. 4: `device_busy_seconds` times `p0_watts`."""
    device_busy_seconds: Quantity
    """Integral of the utilisation, 1 being all of the device. Times another p0 it is Eq. 4 with that p0."""
    p0_watts: Quantity
    """The device's power at full utilisation, in Eq. 4."""
    p0_source: str
    cpu_energy_joules: Quantity
    dram_energy_joules: Quantity

    def __add__(self, other: "Readings") -> "Readings":
        """Two sessions of one stage as one."""
        assert self.stage == other.stage
        return Readings(
            stage=self.stage,
            sessions=self.sessions + other.sessions,
            wall_seconds=self.wall_seconds + other.wall_seconds,
            sampling_cpu_seconds=self.sampling_cpu_seconds + other.sampling_cpu_seconds,
            host_peak_bytes=_both(max, self.host_peak_bytes, other.host_peak_bytes),
            device_peak_bytes=_both(max, self.device_peak_bytes, other.device_peak_bytes),
            device_energy_joules=_both(operator.add, self.device_energy_joules, other.device_energy_joules),
            device_energy_eq4_joules=_both(operator.add, self.device_energy_eq4_joules, other.device_energy_eq4_joules),
            device_busy_seconds=_both(operator.add, self.device_busy_seconds, other.device_busy_seconds),
            p0_watts=_both(_same, self.p0_watts, other.p0_watts),
            p0_source=" or ".join(dict.fromkeys((self.p0_source, other.p0_source))),
            cpu_energy_joules=_both(operator.add, self.cpu_energy_joules, other.cpu_energy_joules),
            dram_energy_joules=_both(operator.add, self.dram_energy_joules, other.dram_energy_joules),
        )

    def to_json(self) -> dict[str, Any]:
        """A missing quantity becomes `{"not_measured": why}`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: {"not_measured": value.why} if isinstance(value, Missing) else value for name, value in values.items()
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Readings":
        """The inverse of `to_json`. KeyError or TypeError where names are not those it writes."""
        values: dict[str, Any] = {
            name: Missing(item["not_measured"]) if isinstance(item, dict) else item for name, item in value.items()
        }
        return Readings(**values)


def _both(combine: Callable[[float, float], Quantity], one: Quantity, other: Quantity) -> Quantity:
    """Both combined; the first that is missing where one is."""
    if isinstance(one, Missing):
        return one
    return other if isinstance(other, Missing) else combine(one, other)


def _same(one: float, other: float) -> Quantity:
    return one if one == other else Missing(f"{one:g} in one session, {other:g} in another")
