"""A meter of the device that torch uses."""

import functools

import torch

from read_cache.meters.gauges import Board
from read_cache.meters.meter import Meter


def meter_stage(stage: str, device: str, p0_watts: float | None = None) -> Meter:
    """Return a meter of this process, this machine and one torch device. Raises UserError if `p0_watts` is no power."""
    if torch.device(device).type != "cuda":
        return Meter(stage, None, p0_watts)
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    reset_peak = functools.partial(torch.cuda.reset_peak_memory_stats, device)
    return Meter(stage, Board(uuid, reset_peak, functools.partial(torch.cuda.max_memory_allocated, device)), p0_watts)
