"""Torch devices."""

import torch

from read_cache.errors import UserError


def check_device(device: str) -> None:
    """Raise UserError if torch does not know the device or cannot use it here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises without CUDA is an AssertionError
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def free_device_bytes(device: str) -> float:
    """Return the bytes of an accelerator's memory that may hold a store: half of what is free; 0 for a processor."""
    kind = torch.device(device).type
    return torch.cuda.mem_get_info(device)[0] / 2 if kind == "cuda" else 0.0
