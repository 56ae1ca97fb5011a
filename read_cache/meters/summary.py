"""Readings in one line for people."""

from read_cache.meters.readings import NAMES, Missing, Readings

SHOWN = (
    "host_peak_bytes",
    "device_peak_bytes",
    "device_energy_joules",
    "device_energy_eq4_joules",
    "cpu_energy_joules",
    "dram_energy_joules",
)


def summary(readings: Readings) -> str:
    """Time, memory and energy of a stage; what was not measured comes last, with the reason."""
    p0 = "" if isinstance(readings.p0_watts, Missing) else f" with p0 = {readings.p0_watts:g} W"
    notes = {"device_energy_eq4_joules": f"{p0} ({readings.p0_source})"}
    sessions = f" in {readings.sessions} sessions" if readings.sessions > 1 else ""
    measured = [f"{readings.stage}: {readings.wall_seconds:.1f} s{sessions}"]
    missing: dict[str, list[str]] = {}
    for field in SHOWN:
        name, quantity = NAMES[field], getattr(readings, field)
        if isinstance(quantity, Missing):
            missing.setdefault(quantity.why, []).append(name)
        elif field.endswith("bytes"):
            measured.append(f"{name} {quantity / 1e9:.3g} GB at most")
        else:
            measured.append(f"{name}{notes.get(field, '')} {quantity:.4g} J = {quantity / 3.6e6:.3g} kWh")
    reasons = [f"{', '.join(names)} ({why})" for why, names in missing.items()]
    return "; ".join(measured + [f"not measured: {', '.join(reasons)}"] * bool(reasons))
