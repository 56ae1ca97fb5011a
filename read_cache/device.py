"""Torch devices and their memory."""

import contextlib
from collections.abc import Iterator

import torch

from read_cache.errors import UserError
from read_cache.streams import is_gpu

MESSAGES = ("not enough memory", "can't allocate memory", "out of memory")
"""Parts of the messages of torch's allocators; the CPU's raises a plain RuntimeError."""


def check_device(device: str) -> None:
    """Raise UserError if torch does not know the device or cannot use it here. Statistics need float64."""
    try:
        torch.empty(0, device=device, dtype=torch.float64)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: no CUDA; TypeError: no float64
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def free_device_bytes(device: str | torch.device) -> float:
    """Return half of an accelerator's free memory in bytes, for what a run may add; 0 for a processor."""
    return torch.cuda.mem_get_info(device)[0] / 2 if is_gpu(device) else 0.0


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an allocation failed, on the device or in the host's memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


@contextlib.contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Raise UserError with `remedy`, which names settings to lower, if an allocation fails inside."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).strip().splitlines()[:1] or ["an allocation failed"]
        raise UserError(f"out of memory ({message[0][:200]}): {remedy}") from error
