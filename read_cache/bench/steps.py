"""Networks and batches of a store, ready to step; nothing here imports a backbone."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from read_cache.bench.measure import drain
from read_cache.config import RunConfig
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.order import epoch_batches
from read_cache.loader.statistics import channel_statistics
from read_cache.meters.meter import meter_stage
from read_cache.networks.base import NetworkShape, build_network
from read_cache.networks.read import ReadConfig
from read_cache.scoring.choose import store_head
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.system import keep_freed_memory
from read_cache.training.learner import Candidate, Learner
from read_cache.training.network_config import NetworkConfig

RUN = RunConfig()


def epoch_order(split: SplitReader, count: int | None = None) -> list[np.ndarray]:
    """Return the examples of the first `count` batches of an epoch, by default of all."""
    layout = split.layout
    return epoch_batches(layout.part_start, layout.length, RUN.batch_size, RUN.window, RUN.order_seed, 0)[:count]


class Stepping:
    """The training split of a store, streamed, and READ networks that step on it."""

    def __init__(self, store: StoreReader, device: str = "cpu") -> None:
        self.store, self.device = store, device
        self.batches = streamed(store, device)
        self.rows = torch.from_numpy(store.head[1]).to(device) if store.head else None

    @cached_property
    def statistics(self) -> Any:
        """The channel statistics."""
        return channel_statistics(self.batches)

    def learner(self, cell: str = "rnn", seed: int = 0) -> Learner:
        """Return a READ network of width 128 before its first step."""
        manifest = self.store.manifest
        settings = ReadConfig(cell=cell, attention="mean")
        network = build_network("read", settings, NetworkShape.of(manifest.backbone, manifest.format), seed)
        network.set_statistics(self.statistics)
        config = NetworkConfig(kind="read", settings=settings, seed=seed)
        head = store_head(config.head, manifest, self.rows, network, device=self.device)
        return Learner(Candidate(network.to(self.device), head, RUN.precision), config, RUN, steps=1000)

    def loaded(self, order: list[np.ndarray]) -> Iterable[Any]:
        """Return the batches of an order, streamed from the store."""
        return map(self.batches.collator.batch, self.batches.padded_batches(order))


def streamed(store: StoreReader, device: str = "cpu") -> SplitBatches:
    """Return the training split with memory for two windows of parts and no more."""
    return SplitBatches(store.split("train"), make_collator(store, device), RUN.batch_size, RUN.window, tier="streamed")


def cached_steps(store: StoreReader, count: int) -> Callable[[], None]:
    """Return a function that trains READ RNN-128 over `count` batches from a store."""
    stepping = Stepping(store)
    learner, order = stepping.learner(), epoch_order(stepping.batches.split, count)
    return lambda: drain(map(learner.train_step, stepping.loaded(order)))


def cached_peak(path: str, count: int) -> float:
    """Return the peak memory of this process in bytes, once it has trained READ over `count` batches from a store."""
    keep_freed_memory()
    return peak_bytes(lambda: cached_steps(StoreReader(path), count)())


def reading_peak(path: str, epochs: int) -> float:
    """Return how much the memory of this process grew, in bytes, while every batch was streamed once an epoch."""
    keep_freed_memory()
    batches = streamed(StoreReader(path))
    before = peak_bytes(lambda: None)
    return peak_bytes(lambda: [drain(batches.epoch(RUN.order_seed, epoch)) for epoch in range(epochs)]) - before


def peak_bytes(work: Callable[[], object]) -> float:
    """Return the peak memory of this process while a function runs, in bytes; 0 where it cannot be read."""
    with meter_stage("bench", "cpu") as meter:
        work()
    return meter.read().host_peak_bytes or 0.0
