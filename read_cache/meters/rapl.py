"""Energy of the processor and of its memory, by the RAPL counters of Intel and AMD processors, as Linux shows them."""

import functools
from pathlib import Path

from read_cache.meters.gauges import Counter, UnreadableError

POWERCAP = Path("/sys/class/powercap")


class RaplEnergy:
    """Joules of all zones of one kind: `package`, a whole processor each, or `dram`, the memory beside one.

    Other zones are parts of a package, or of the whole board with the packages in it, and are left out. The counters
    are in microjoules and wrap, within minutes on large processors.
    """

    def __init__(self, kind: str, powercap: Path = POWERCAP) -> None:
        self._kind, self._powercap = kind, powercap
        self._counters: list[Counter] = []

    def start(self) -> None:
        if not self._powercap.is_dir():
            raise UnreadableError(f"this system has no {self._powercap}")
        zones = [zone for zone in self._powercap.glob("intel-rapl:*") if _text(zone / "name").startswith(self._kind)]
        if not zones:
            raise UnreadableError(f"{self._powercap} has no {self._kind} zone")
        for zone in zones:
            counter = Counter(functools.partial(_number, zone / "energy_uj"), _number(zone / "max_energy_range_uj"))
            counter.start()
            self._counters.append(counter)

    def sample(self, seconds: float) -> None:
        for counter in self._counters:
            counter.sample(seconds)

    def total(self) -> float:
        return sum(counter.total() for counter in self._counters) * 1e-6


def _number(path: Path) -> int:
    return int(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror or error}") from error
