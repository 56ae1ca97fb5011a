"""Running out of memory as an error that names the setting to lower."""

import contextlib
from collections.abc import Iterator

import torch

from read_cache.errors import UserError

MESSAGES = ("not enough memory", "can't allocate memory", "out of memory")
"""Parts of the messages of torch's allocators; the CPU's raises a plain RuntimeError."""


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
