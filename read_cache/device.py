"""Where tensors live."""

import torch

from read_cache.errors import UserError


def check_device(device: str) -> None:
    """Raises UserError where torch does not know the device or cannot use it here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises without CUDA is an AssertionError
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def free_device_bytes(device: str) -> float:
    """How much of an accelerator's memory may hold a store: half of what is free; nothing of the host's."""
    kind = torch.device(device).type
    return torch.cuda.mem_get_info(device)[0] / 2 if kind == "cuda" else 0.0
