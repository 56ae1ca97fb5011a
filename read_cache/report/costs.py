"""Time, memory and energy of both stages, from what results hold of them."""

import dataclasses
import functools
import json
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence

from read_cache.errors import UserError
from read_cache.meters.readings import Missing, Quantity, Readings
from read_cache.report.aggregate import StoreResults
from read_cache.report.markdown import three_digits
from read_cache.train.results import Result

JOULES_PER_KWH = 3.6e6
COLUMNS = {
    "time, s": ("wall_seconds", 1.0),
    "host memory, GB": ("host_peak_bytes", 1e9),
    "device memory, GB": ("device_peak_bytes", 1e9),
    "device energy, kWh": ("device_energy_joules", JOULES_PER_KWH),
    "device energy by Eq. 4, kWh": ("device_energy_eq4_joules", JOULES_PER_KWH),
    "CPU energy, kWh": ("cpu_energy_joules", JOULES_PER_KWH),
    "DRAM energy, kWh": ("dram_energy_joules", JOULES_PER_KWH),
}
"""Columns of a table of costs: a field of Readings, and how much of it the column's unit is."""
COSTS = ("task", "stage", *COLUMNS)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one store took, or several together."""

    extraction: Readings | Missing
    """Of every session that filled it."""
    training: Readings | Missing
    """Of every network that was tried, the search and the final seeds."""

    @property
    def whole(self) -> Readings | Missing:
        """Both stages, one after the other."""
        return together([self.extraction, self.training])

    @property
    def energy_kwh(self) -> Quantity:
        """Of the device, by Eq. 4 as in the paper."""
        whole = self.whole
        if isinstance(whole, Missing):
            return whole
        joules = whole.device_energy_eq4_joules
        return joules if isinstance(joules, Missing) else joules / JOULES_PER_KWH

    @property
    def p0(self) -> str | None:
        """What Eq. 4 took for the device's power at full utilisation; None where nothing was known."""
        whole = self.whole
        if isinstance(whole, Missing) or isinstance(whole.p0_watts, Missing):
            return None
        return f"p0 = {whole.p0_watts:g} W ({whole.p0_source})"

    @property
    def power_kw(self) -> Quantity:
        """That energy over the wall time."""
        energy, whole = self.energy_kwh, self.whole
        if isinstance(energy, Missing) or isinstance(whole, Missing):
            return energy
        return energy / (whole.wall_seconds / 3600)


def store_cost(store: StoreResults) -> Cost:
    """What one store took."""
    return Cost(
        together(_distinct(store.results[:1], "meters_of_extraction")),
        together(_distinct(store.results, "meters_for_all_networks")),
    )


def summed(costs: Collection[Cost]) -> Cost:
    """What several stores took."""
    return Cost(together(cost.extraction for cost in costs), together(cost.training for cost in costs))


def together(found: Iterable[Readings | Missing]) -> Readings | Missing:
    """The sum, be the stages what they may; missing where one is."""
    readings: list[Readings] = []
    for one in found:
        if isinstance(one, Missing):
            return one
        readings.append(dataclasses.replace(one, stage="all"))
    return functools.reduce(operator.add, readings)


def cost_rows(costs: Mapping[str, Cost]) -> list[list[str]]:
    """Both stages of each task, then all together, as COSTS names them."""
    rows = [
        [task, stage, *map(three_digits, _values(readings))]
        for task, cost in costs.items()
        for stage, readings in (("extraction", cost.extraction), ("training", cost.training))
    ]
    return [*rows, ["together", "both", *map(three_digits, _values(summed(costs.values()).whole))]]


def not_measured(cost: Cost) -> str:
    """Why columns of its table hold a dash; nothing where none does."""
    reasons: dict[str, list[str]] = {}
    for column, value in zip(COLUMNS, _values(cost.whole), strict=True):
        if isinstance(value, Missing):
            reasons.setdefault(value.why, []).append(column.rpartition(",")[0])
    told = "; ".join(f"{', '.join(columns)} ({why})" for why, columns in reasons.items())
    return f"Not measured: {told}." if told else ""


def _values(readings: Readings | Missing) -> list[Quantity]:
    if isinstance(readings, Missing):
        return [readings] * len(COLUMNS)
    found = [(getattr(readings, field), unit) for field, unit in COLUMNS.values()]
    return [value if isinstance(value, Missing) else value / unit for value, unit in found]


def _distinct(results: Sequence[Result], key: str) -> list[Readings | Missing]:
    """Readings of each run once: networks that trained together share theirs. Raises UserError."""
    distinct = {json.dumps(result.get(key)): result for result in results}
    found: list[Readings | Missing] = []
    for result in distinct.values():
        match result.get(key):
            case None:
                found.append(Missing(f"{result['network']} was trained by a version that did not keep it"))
            case {"not_measured": why}:
                found.append(Missing(str(why)))
            case value:
                try:
                    found.append(Readings.from_json(value))
                except (KeyError, TypeError, AttributeError) as error:
                    raise UserError(
                        f"the result of {result['network']} has {key} that are no readings ({error!r}): delete its "
                        "line of results.jsonl, and train it again"
                    ) from error
    return found
