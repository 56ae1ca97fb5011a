"""Time, memory and energy, as far as they were recorded: what was not measured is said to be so."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from read_cache.meters.readings import NAMES
from read_cache.train.results import Result

UNITS = {"seconds": "time", "bytes": "memory", "joules": "energy", "watts": "power"}
"""The quantity by the word of a key that tells its unit."""
ALWAYS = ("time", "memory", "energy")


def measured(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Names and values with units; of a value that differs between networks, the least and the most.

    A result's value is a number whose key names its unit, such as `peak_memory_bytes`, or {"not_measured": why}.
    """
    values: defaultdict[tuple[str, ...], list[Any]] = defaultdict(list)
    for result in results:
        for path, value in _quantities(result):
            values[path].append(value)
    rows = [(_name(path), _over(_unit(path), found, len(results))) for path, found in values.items()]
    seen = {UNITS[_unit(path)] for path in values}
    return rows + [(quantity, "not measured") for quantity in ALWAYS if quantity not in seen]


def _quantities(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        here = (*path, key)
        reason = isinstance(value, dict) and "not_measured" in value
        if reason or (isinstance(value, int | float) and not isinstance(value, bool)):
            if _unit(here):
                yield here, value
        elif isinstance(value, dict):
            yield from _quantities(value, here)


def _unit(path: tuple[str, ...]) -> str:
    return next((word for word in path[-1].split("_") if word in UNITS), "")


def _name(path: tuple[str, ...]) -> str:
    *parents, last = path
    where = [parent.replace("_", " ") for parent in parents]
    return NAMES.get(last, last.replace("_", " ")) + (f" ({', '.join(where)})" if where else "")


def _over(unit: str, values: list[Any], networks: int) -> str:
    numbers = [value for value in values if not isinstance(value, dict)]
    reasons = dict.fromkeys(str(value["not_measured"]) for value in values if isinstance(value, dict))
    told = []
    if numbers:
        least, most = _with_unit(unit, min(numbers)), _with_unit(unit, max(numbers))
        told.append(least if least == most else f"{least} to {most}")
        if len(numbers) < networks:
            told.append(f"known of {len(numbers)} of {networks} networks")
    return "; ".join(told + [f"not measured: {reason}" for reason in reasons])


def _with_unit(unit: str, value: float) -> str:
    match unit:
        case "seconds":
            return f"{value:,.1f} s"
        case "bytes":
            return f"{value / 1e9:,.3f} GB"
        case "joules":
            return f"{value:,.0f} J ({value / 3.6e6:.3g} kWh)"
        case _:
            return f"{value:,.0f} W"
