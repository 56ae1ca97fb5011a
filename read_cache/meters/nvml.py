"""What a meter asks of a device, and a device that NVIDIA's management library (NVML) knows."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import pynvml

from read_cache.meters.gauges import UnreadableError


class Device(Protocol):
    """One accelerator. Whatever a method raises is why its quantity is missing."""

    def reset_peak(self) -> None:
        """Forget the highest use of memory so far."""

    def peak_bytes(self) -> int:
        """The highest use of memory since."""

    def energy_joules(self) -> float:
        """A counter of the energy used."""

    def utilisation_percent(self) -> float:
        """How busy it has been in the last moment."""

    def power_limit_watts(self) -> float:
        """The most power it may draw."""


class NoDevice:
    """Stands for a device where there is none to read, and says why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def _refuse(self) -> NoReturn:
        raise UnreadableError(self._why)

    reset_peak = peak_bytes = energy_joules = utilisation_percent = power_limit_watts = _refuse


class NvmlDevice:
    """One NVIDIA board, found by its UUID (NVML's numbers of boards are not those of CUDA), and its tensors' memory.

    The counter of energy is there from Volta on, in millijoules, and moves about every 100 ms.
    """

    def __init__(self, uuid: str, reset_peak: Callable[[], None], peak_bytes: Callable[[], int]) -> None:
        self._uuid, self.reset_peak, self.peak_bytes = uuid, reset_peak, peak_bytes

    @functools.cached_property
    def _board(self) -> Any:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(self._uuid)

    def energy_joules(self) -> float:
        return self._ask("energy counter", pynvml.nvmlDeviceGetTotalEnergyConsumption) / 1000

    def utilisation_percent(self) -> float:
        return self._ask("utilisation", pynvml.nvmlDeviceGetUtilizationRates).gpu

    def power_limit_watts(self) -> float:
        return self._ask("power limit", pynvml.nvmlDeviceGetEnforcedPowerLimit) / 1000

    def _ask(self, name: str, function: Callable[[Any], Any]) -> Any:
        try:
            return function(self._board)
        except pynvml.NVMLError as error:
            raise UnreadableError(f"the board's {name} cannot be read (NVML: {error})") from error
