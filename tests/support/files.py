"""Changing files in place, and every tensor of a batch."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch


def flip(path: Path, bit: int) -> None:
    """Change one bit in place; again, and it is as it was."""
    file = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(file, 1, bit // 8)[0]
        os.pwrite(file, bytes([byte ^ 1 << bit % 8]), bit // 8)
    finally:
        os.close(file)


def tensors(record: object) -> Iterator[torch.Tensor]:
    """Every tensor of a batch."""
    if isinstance(record, torch.Tensor):
        yield record
    elif isinstance(record, Mapping):
        for value in record.values():
            yield from tensors(value)
    elif dataclasses.is_dataclass(record):
        for field in dataclasses.fields(record):
            yield from tensors(getattr(record, field.name))
