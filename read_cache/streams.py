"""Copies between the host and a GPU, on a stream of their own while the GPU computes. Without a GPU: nothing to do."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Copy = TypeVar("Copy")


def is_gpu(device: str | torch.device) -> bool:
    return torch.device(device).type == "cuda"


@functools.cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return this process's stream of copies from and to a GPU."""
    return torch.cuda.Stream(device)


def ahead(
    items: Iterable[Item], copy: Callable[[Item], Copy], compute: torch.cuda.Stream, copies: torch.cuda.Stream
) -> Iterator[Copy]:
    """Yield a copy of each item. While the caller's work on it runs on `compute`, the next copy is made on `copies`.

    A copy may get the memory of an earlier one that the caller has dropped. So it begins after the work on that one.
    """
    waiting: list[tuple[Copy, torch.cuda.Event]] = []
    for item in items:
        copies.wait_stream(compute)
        with torch.cuda.stream(copies):
            made = copy(item)
        waiting.append((made, copies.record_event()))
        if len(waiting) > 1:
            yield _arrived(waiting, compute)
    while waiting:
        yield _arrived(waiting, compute)


def _arrived(waiting: list[tuple[Copy, torch.cuda.Event]], compute: torch.cuda.Stream) -> Copy:
    copy, event = waiting.pop(0)
    compute.wait_event(event)
    return copy


def to_host(tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Return a function that waits for tensors on the host; those of a GPU are copied into pinned memory meanwhile."""
    devices = {values.device for values in tensors.values()} - {torch.device("cpu")}
    if not devices:
        return lambda: dict(tensors)
    (device,) = devices
    return start_copies(tensors, torch.cuda.current_stream(device), copy_stream(device))


def start_copies(
    tensors: Mapping[str, Tensor], compute: torch.cuda.Stream, copies: torch.cuda.Stream
) -> Callable[[], dict[str, Tensor]]:
    """Start copying tensors that `compute` makes into pinned memory; return a function that waits for the copies."""
    copies.wait_stream(compute)
    with torch.cuda.stream(copies):
        made = {
            name: torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            for name, values in tensors.items()
        }
    event = copies.record_event()

    def finish(held: Mapping[str, Tensor] = tensors) -> dict[str, Tensor]:
        """`held` keeps the memory that is copied from."""
        event.synchronize()
        return made

    return finish
