"""Where tensors live."""

import torch

from read_cache.errors import UserError


def check_device(device: str) -> None:
    """Raises UserError where torch does not know the device or cannot use it here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises without CUDA is an AssertionError
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
