"""The record of a saved network: what it belongs to, and how it was made."""

from functools import cached_property
from typing import Any

from read_cache.settings import Record
from read_cache.store.schema import ComputeDtype, Format
from read_cache.store.spec import BackboneSpec
from read_cache.tasks import Task
from read_cache.trie import LabelTrie

FROZEN = "frozen_"
"""Begins the kind of a side network that is trained beside the live backbone."""


class NetworkRecord(Record):
    """The backbone, task, format and settings of a saved network."""

    version: int = 1
    name: str
    kind: str
    """A name in `NETWORKS`."""
    config: dict[str, Any]
    """Settings of that kind."""
    head: dict[str, Any]
    """Settings of the head."""
    learning_rate: float
    seed: int
    backbone: BackboneSpec
    """Its digest names the only backbone whose activations the network can read."""
    activations_digest: str
    """Of the store that trained it."""
    task_digest: str
    tokenizer_digest: str = ""
    """Of the tokenizer that made the store's tokens."""
    task: Task
    label_ids: tuple[tuple[int, ...], ...]
    max_source_length: int
    format: Format
    """Of the store that trained it; a live backbone's states are converted to it."""
    compute_dtype: ComputeDtype
    run: dict[str, Any]
    """Settings of the run."""
    backbone_dropout: float | None = None
    """Dropout probability in the live backbone that it was trained beside; None: it was trained from a store."""
    scores: dict[str, Any]
    """validation, test, best_epoch, epochs, parameters, parameters_percent: for people; no code depends on them."""

    @cached_property
    def trie(self) -> LabelTrie | None:
        """The label trie; None for an open target or a backbone without an LM head."""
        return LabelTrie(self.label_ids) if self.label_ids else None
