"""Readings in one line for people."""

from read_cache.meters.readings import Missing, Quantity, Readings


def summary(readings: Readings) -> str:
    """Time, memory and energy of a stage; what was not measured comes last, with the reason."""
    p0 = "" if isinstance(readings.p0_watts, Missing) else f" with p0 = {readings.p0_watts:g} W"
    quantities: dict[str, tuple[Quantity, str]] = {
        "host memory": (readings.host_peak_bytes, ""),
        "device memory": (readings.device_peak_bytes, ""),
        "device energy by its counter": (readings.device_energy_joules, ""),
        "device energy by Eq. 4": (
            readings.device_energy_eq4_joules,
            f"{p0} ({readings.p0_source})",
        ),
        "CPU energy": (readings.cpu_energy_joules, ""),
        "DRAM energy": (readings.dram_energy_joules, ""),
    }
    sessions = f" in {readings.sessions} sessions" if readings.sessions > 1 else ""
    measured = [f"{readings.stage}: {readings.wall_seconds:.1f} s{sessions}"]
    missing: dict[str, list[str]] = {}
    for name, (quantity, note) in quantities.items():
        if isinstance(quantity, Missing):
            missing.setdefault(quantity.why, []).append(name)
        elif name.endswith("memory"):
            measured.append(f"{name} {quantity / 1e9:.3g} GB at most")
        else:
            measured.append(f"{name}{note} {quantity:.4g} J = {quantity / 3.6e6:.3g} kWh")
    reasons = [f"{', '.join(names)} ({why})" for why, names in missing.items()]
    return "; ".join(measured + [f"not measured: {', '.join(reasons)}"] * bool(reasons))
