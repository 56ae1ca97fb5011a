"""What a saved network is bound to, and how it was made."""

import dataclasses
from typing import Any

from read_cache.networks.config import BackboneShape, ReadConfig
from read_cache.store.schema import ComputeDtype, Form
from read_cache.tasks import Task


@dataclasses.dataclass(frozen=True)
class NetworkRecord:
    """What a saved network is bound to, and how it was made."""

    name: str
    read: ReadConfig
    shape: BackboneShape
    backbone: str
    backbone_digest: str
    """The only backbone whose activations it understands."""
    store_digest: str
    task: Task
    label_ids: tuple[tuple[int, ...], ...]
    max_source_length: int
    form: Form
    """Of the store that trained it; a live backbone's states are brought into it."""
    compute_dtype: ComputeDtype
    training: dict[str, Any]
    """Learning rate, seed, epochs, metrics: for people; nothing depends on it."""
