"""A meter of the device that torch runs on."""

import functools

import torch

from read_cache.device import check_device
from read_cache.meters.meter import Meter
from read_cache.meters.nvml import Device, NoDevice, NvmlDevice


def meter_stage(stage: str, device: str, p0_watts: float | None = None) -> Meter:
    """A meter of this process, this machine and the torch device in use, no other.

    Raises UserError for a device that cannot be used, or a `p0_watts` that is no power.
    """
    check_device(device)
    return Meter(stage, find_device(device), p0_watts)


def find_device(device: str) -> Device:
    """What can be read of a torch device."""
    if torch.device(device).type != "cuda":
        return NoDevice(f"the stage ran on {device}")
    return NvmlDevice(
        f"GPU-{torch.cuda.get_device_properties(device).uuid}",
        functools.partial(torch.cuda.reset_peak_memory_stats, device),
        functools.partial(torch.cuda.max_memory_allocated, device),
    )
