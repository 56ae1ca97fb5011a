"""Training from a store / from tensors in memory; K networks in one pass / K passes with one each."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from statistics import median
from typing import Any

from read_cache.bench.case import Case, random_store
from read_cache.bench.measure import Facts, Result, Seconds, alternate, clock, drain, ratio
from read_cache.bench.steps import RUN, Stepping, epoch_order
from read_cache.training.stack import steppers

CELLS = ("rnn", "gru")
TARGETS = {(32, "cpu"): "at most 0.6", (32, "cuda"): "at most 0.1"}
"""By number of networks and device."""
BATCHES_SHARE = 4
"""One network steps over this many times more batches than each of many."""
PASSES_ALONE = 4
"""Passes of one network in each of its times; one pass would be too short to time."""


def bench_train(case: Case) -> Result:
    """One network of each cell on the same batches: streamed, or padded in memory in the dtypes of the store."""
    stepping = Stepping(random_store(case))
    collator, order = stepping.batches.collator, epoch_order(stepping.batches.split, case.config.train_batches)
    padded = list(stepping.batches.padded_batches(order))
    sources: dict[str, Callable[[], Iterable[Any]]] = {
        "streamed": lambda: stepping.loaded(order),
        "in memory": lambda: map(collator.batch, padded),
    }

    def train(cell: str, source: Callable[[], Iterable[Any]]) -> float:
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
