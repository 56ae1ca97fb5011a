"""K networks in one pass over a store against K passes with one each."""

from functools import partial
from itertools import chain
from statistics import median

from read_cache.bench.case import Case
from read_cache.bench.measure import Facts, Ratio, Result, Seconds, alternate
from read_cache.bench.read import RUN, epoch_order, streamed
from read_cache.loader.statistics import channel_statistics
from read_cache.networks.config import Cell, ReadConfig
from read_cache.planning.timing import clock
from read_cache.scoring.heads import Head
from read_cache.store.reader import StoreReader
from read_cache.train.grid import NetworkConfig, backbone_shape
from read_cache.train.learner import Learner
from read_cache.train.stack import Stack

CELL: Cell = "rnn"
TARGETS = {(16, "cpu"): "at most 0.8", (32, "cuda"): "at most 0.1"}
BATCHES_SHARE = 4
"""One network of `train` steps over this many times more batches than each of many."""
PASSES_ALONE = 4
"""Passes of one network that make a time: one would be over before the clock steadies."""


def bench_networks(case: Case, store: StoreReader) -> Result:
    """Time over the same streamed batches by how many networks there are, in a loop and stacked."""
    device = case.config.device
    batches, head, shape = streamed(store, device), Head.of(store, device), backbone_shape(store.manifest)
    order = epoch_order(batches.split)[: max(1, case.config.train_batches // BATCHES_SHARE)]
    statistics = channel_statistics(batches)
    configs = [NetworkConfig(ReadConfig(CELL, 128), seed=seed) for seed in range(max(case.config.counts))]

    def train(count: int, stacked: bool) -> float:
        learners = [Learner(config, RUN, shape, len(order), device) for config in configs[:count]]
        for learner in learners:
            learner.network.set_statistics(*statistics)
        stepping = [Stack(learners)] if stacked else learners

        passes = PASSES_ALONE if count == 1 else 1

        def steps() -> None:
            for padded in chain.from_iterable(batches.padded_batches(order) for _ in range(passes)):
                batch = batches.collator.batch(padded)
                for stepper in stepping:
                    stepper.train_step(batch, head)

        return clock(steps) / passes

    sides = {(1, False): "1"}
    for count in case.config.counts:
        sides |= {(count, False): f"{count} in a loop", (count, True): f"{count} stacked"}
    seconds: Seconds = alternate({name: partial(train, *key) for key, name in sides.items()}, case.config.repeats)
    alone = seconds[sides[1, False]]
    ratios, table = [], list[Facts]()
    rows = sum(map(len, order))
    for (count, _), name in sides.items():
        share = tuple(together / (count * one) for together, one in zip(seconds[name], alone, strict=True))
        if count > 1:
            ratios.append(Ratio(f"{name} / as many runs of one", share, TARGETS.get((count, device), "")))
        each = median(seconds[name]) / count
        table.append({"networks": name, "ms a row and network": 1e3 * each / rows, "of one alone": median(share)})
    facts: Facts = {"shape": case.config.shape, "network": f"{CELL}-128", "device": device, "rows": rows}
    return Result("networks", facts | {"batch_size": RUN.batch_size}, seconds, tuple(ratios), tuple(table))
