"""Time, memory and energy of both stages, from the readings in results."""

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from read_cache.meters.readings import Readings
from read_cache.settings import parse

JOULES_PER_KWH = 3.6e6
QUANTITIES = {
    "time, s": ("wall_seconds", 1.0),
    "host memory, GB": ("host_peak_bytes", 1e9),
    "device memory, GB": ("device_peak_bytes", 1e9),
    "device energy, kWh": ("device_energy_joules", JOULES_PER_KWH),
    "device energy by Eq. 4, kWh": ("device_energy_eq4_joules", JOULES_PER_KWH),
    "CPU energy, kWh": ("cpu_energy_joules", JOULES_PER_KWH),
    "DRAM energy, kWh": ("dram_energy_joules", JOULES_PER_KWH),
}
"""Columns: a field of Readings, and the column's unit in the field's unit."""
EQ4 = "device energy by Eq. 4, kWh"


def session_frame(networks: pd.DataFrame) -> pd.DataFrame:
    """Return one row for the extraction of each store and one for each training session.

    Networks that trained together share their readings, which count once. Columns: identity, title, stage, kinds (of
    the networks that used it), networks (their number), p0, missing (reason by column), and QUANTITIES.
    """
    rows = []
    for (identity, title), store in networks.groupby(["identity", "title"], sort=False):
        extracted = store[store["extraction"].map(bool)]
        sessions = [("extraction", extracted, extracted["extraction"].iloc[-1] if len(extracted) else {})]
        for _, trained in store.groupby(store["readings"].map(json.dumps), sort=False):
            sessions.append(("training", trained, trained["readings"].iloc[0]))
        for stage, users, readings in sessions:
            kinds = tuple(users["kind"].unique())
            row = {"identity": identity, "title": title, "stage": stage, "kinds": kinds, "networks": len(users)}
            rows.append(row | _quantities(stage, readings))
    return pd.DataFrame(rows)


def _quantities(stage: str, values: dict[str, Any]) -> dict[str, Any]:
    if not values:
        return {"p0": None, "missing": {stage: "no readings"}}
    readings = parse(Readings, values, "readings")
    numbers = {name: getattr(readings, field) for name, (field, _) in QUANTITIES.items()}
    missing = {name: readings.missing.get(QUANTITIES[name][0], "unknown") for name in numbers if numbers[name] is None}
    scaled = {name: number and number / QUANTITIES[name][1] for name, number in numbers.items()}
    return {"p0": readings.p0_watts, "missing": missing} | scaled


def total(sessions: pd.DataFrame) -> pd.Series:
    """Return sums of times and energies and peaks of memory; a quantity that a session lacks is NaN."""
    numbers = sessions.reindex(columns=list(QUANTITIES)).astype(float)
    peaks = [name for name in QUANTITIES if "memory" in name]
    return numbers.sum(skipna=False).where(~numbers.columns.isin(peaks), numbers.max(skipna=False))


def method_cost(sessions: pd.DataFrame, identities: Iterable[str], kind: str) -> pd.Series:
    """Return the cost of one kind on some stores: all extractions and training sessions that its networks used."""
    used = sessions["kinds"].map(lambda kinds: kind in kinds)
    return total(sessions[used & sessions["identity"].isin(list(identities))])


def cost_table(sessions: pd.DataFrame) -> pd.DataFrame:
    """Return time, memory and energy as text by store, stage and kinds, and their total; measured columns only."""
    rows = []
    sessions = sessions[sessions["networks"] > 0]  # no extraction without readings
    for (title, stage, kinds), group in sessions.groupby(["title", "stage", "kinds"], sort=False):
        networks = f"{group['networks'].sum():,}"
        rows.append({"task": title, "stage": stage, "kind": ", ".join(kinds), "networks": networks, **total(group)})
    table = pd.DataFrame([*rows, {"task": "total", **total(sessions)}]).dropna(axis="columns", how="all")
    numbers = table.columns.intersection(list(QUANTITIES))
    return table.assign(**{name: table[name].map(digits) for name in numbers}).astype(object)


def not_measured(sessions: pd.DataFrame) -> str:
    """Return one sentence about all missing quantities, with the reasons; empty if there are none."""
    reasons: dict[str, dict[str, None]] = {}
    for missing in sessions["missing"]:
        for name, why in missing.items():
            reasons.setdefault(why, {})[name.partition(",")[0]] = None
    listed = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    return f"Not measured: {listed}." if listed else ""


def digits(value: float) -> str | None:
    """Return a number with four significant digits, or None for NaN."""
    return None if pd.isna(value) else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
