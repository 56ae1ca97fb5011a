"""Peak resident memory of this process."""

from pathlib import Path

from read_cache.meters.gauges import UnreadableError

PROC = Path("/proc/self")


class HostPeak:
    """The most bytes of resident memory since the start. Linux only.

    The kernel keeps one high water mark a process, VmHWM, which is reset at the start. Where that is not allowed, the
    mark tells the peak only if it has risen since.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._why_not_reset = ""
        self._first = 0

    def start(self) -> None:
        self._first = self._high_water()
        try:
            (self._proc / "clear_refs").write_text("5")
        except OSError as error:
            self._why_not_reset = error.strerror or str(error)

    def sample(self, seconds: float) -> None:
        """Nothing to do: the kernel keeps the peak."""

    def total(self) -> int:
        peak = self._high_water()
        if self._why_not_reset and peak == self._first:
            raise UnreadableError(
                f"the process had its peak before the stage, and {self._proc}/clear_refs, which would reset it, cannot "
                f"be written: {self._why_not_reset}"
            )
        return peak

    def _high_water(self) -> int:
        path = self._proc / "status"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UnreadableError(f"{path} cannot be read: {error.strerror or error}") from error
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise UnreadableError(f"{path} has no VmHWM")
