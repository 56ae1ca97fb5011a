"""Training from a store / from tensors in memory; K networks in one pass / K passes with one each.

Nothing here imports a backbone.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from statistics import median

import numpy as np
import torch

from read_cache.bench.case import Case, random_store
from read_cache.bench.measure import Facts, Result, Seconds, alternate, clock, drain, ratio
from read_cache.config import RunConfig
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.order import epoch_batches
from read_cache.loader.statistics import channel_statistics
from read_cache.networks.base import NetworkShape, build_network
from read_cache.networks.read import ReadConfig
from read_cache.scoring.choose import store_head
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.training.learner import Candidate, Learner
from read_cache.training.network_config import NetworkConfig
from read_cache.training.stack import steppers

RUN = RunConfig()
CELLS = ("rnn", "gru")
TARGETS = {(32, "cpu"): "at most 0.6", (32, "cuda"): "at most 0.1"}
"""By number of networks and device."""
BATCHES_SHARE = 4
"""One network steps over this many times more batches than each of many."""
PASSES_ALONE = 4
"""Passes of one network in each of its times; one pass would be too short to time."""


def epoch_order(split: SplitReader, count: int | None = None) -> list[np.ndarray]:
    """Return the examples of the first `count` batches of an epoch, by default of all."""
    layout = split.layout
    return epoch_batches(layout.part_start, layout.length, RUN.batch_size, RUN.window, RUN.order_seed, 0)[:count]


class Stepping:
    """The training split of a store, streamed, and READ networks that step on it."""

    def __init__(self, store: StoreReader, device: str = "cpu") -> None:
        self.store, self.device = store, device
        self.batches = streamed(store, device)
        self.statistics = channel_statistics(self.batches)
        self.rows = torch.from_numpy(store.head[1]).to(device) if store.head else None

    def learner(self, cell: str = "rnn", seed: int = 0) -> Learner:
        """Return a READ network of width 128 before its first step."""
        manifest = self.store.manifest
        settings = ReadConfig(cell=cell, attention="mean")
        network = build_network("read", settings, NetworkShape.of(manifest.backbone, manifest.format), seed)
        network.set_statistics(self.statistics)
        config = NetworkConfig(kind="read", settings=settings, seed=seed)
        head = store_head(config.head, manifest, self.rows, network, device=self.device)
        return Learner(Candidate(network.to(self.device), head, RUN.precision), config, RUN, steps=1000)

    def loaded(self, order: list[np.ndarray]) -> Iterable[Batch]:
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


def bench_train(case: Case) -> Result:
    """One network of each cell on the same batches: streamed, or padded in memory in the dtypes of the store."""
    stepping = Stepping(random_store(case))
    collator, order = stepping.batches.collator, epoch_order(stepping.batches.split, case.config.train_batches)
    padded = list(stepping.batches.padded_batches(order))
    sources: dict[str, Callable[[], Iterable[Batch]]] = {
        "streamed": lambda: stepping.loaded(order),
        "in memory": lambda: map(collator.batch, padded),
    }

    def train(cell: str, source: Callable[[], Iterable[Batch]]) -> float:
        learner = stepping.learner(cell)
        return clock(lambda: drain(map(learner.train_step, source())))

    seconds, rows = Seconds(), sum(map(len, order))
    for cell in CELLS:
        sides = {f"{cell}, {name}": partial(train, cell, source) for name, source in sources.items()}
        seconds |= alternate(sides, case.config.repeats)
    ratios = [ratio(seconds, f"{cell}, streamed", f"{cell}, in memory", "at most 1.05") for cell in CELLS]
    rates = {f"{cell}_rows_per_second": rows / median(seconds[f"{cell}, streamed"]) for cell in CELLS}
    return Result({"rows": rows, "batch_size": RUN.batch_size} | rates, seconds, ratios)


def bench_networks(case: Case) -> Result:
    """Time over the same streamed batches by the number of networks, in a loop and stacked."""
    config = case.config
    stepping = Stepping(random_store(case), config.device)
    order = epoch_order(stepping.batches.split, max(1, config.train_batches // BATCHES_SHARE))

    def train(count: int, stacked: bool) -> float:
        learners = [stepping.learner(seed=seed) for seed in range(count)]
        stepped, passes = list(steppers(learners, stacked)), PASSES_ALONE if count == 1 else 1

        def steps() -> None:
            for batch in chain.from_iterable(stepping.loaded(order) for _ in range(passes)):
                for stepper in stepped:
                    stepper.train_step(batch)
            for learner in learners:
                learner.read_losses()  # waits for the device

        return clock(steps) / passes

    sides, ratios = {"1 network": partial(train, 1, False)}, []
    for count in config.counts:
        sides |= {f"{count} in a loop": partial(train, count, False), f"{count} stacked": partial(train, count, True)}
    seconds = alternate(sides, config.repeats)
    for name in (name for name in sides if name != "1 network"):
        count = int(name.partition(" ")[0])
        ratios.append(ratio(seconds, name, "1 network", TARGETS.get((count, config.device), ""), times=count))
    rows = sum(map(len, order))
    facts: Facts = {"network": "rnn-128", "device": config.device, "rows": rows, "batch_size": RUN.batch_size}
    return Result(facts | {"rows_per_second_of_one": rows / median(seconds["1 network"])}, seconds, ratios)
