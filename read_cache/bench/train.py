"""Training from a store / from tensors in memory, and many networks in one pass. Nothing here imports a backbone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from read_cache.bench.case import Case, random_store
from read_cache.bench.measure import Result, Seconds, alternate, clock, ratio
from read_cache.config import Place, RunConfig
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.order import epoch_batches
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.training.from_store import FromStore
from read_cache.training.learner import Learner
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import side_networks

RUN = RunConfig()
CELLS = ("rnn", "gru")
NETWORKS = 32
"""Networks that share a pass."""
SHARE = 8
"""Many networks, and live methods, step over one of this many batches."""


def epoch_order(split: SplitReader, count: int | None = None) -> list[np.ndarray]:
    """Return the examples of the first `count` batches of an epoch, by default of all."""
    layout = split.layout
    return epoch_batches(layout.part_start, layout.length, RUN.batch_size, RUN.window, RUN.order_seed, 0)[:count]


def streamed(store: StoreReader, attention: bool = True, raw: bool = False) -> SplitBatches:
    """Return the training split with memory for two windows of parts and no more."""
    collator = make_collator(store, attention=attention, raw=raw)
    return SplitBatches(store.split("train"), collator, RUN.batch_size, RUN.window, tier="streamed")


def cached_learners(store: StoreReader, kind: str, settings: Mapping[str, Any] = {}, count: int = 1) -> list[Learner]:
    """Return networks of one kind before their first step, each with a seed of its own."""
    made = side_networks()[kind](**settings)
    configs = [NetworkConfig(kind=kind, settings=made, seed=seed) for seed in range(count)]
    return FromStore(store.folder).prepare(configs, RUN, Place()).learners


def train(learners: Sequence[Learner], batches: Callable[[], Iterable[Batch]]) -> float:
    """Return the seconds that a step of every learner on each batch takes."""

    def steps() -> None:
        for batch in batches():
            for learner in learners:
                learner.train_step(batch)

    return clock(steps)


def streaming(split: SplitBatches, order: Sequence[np.ndarray]) -> Iterator[Batch]:
    """Yield batches of the given examples, read from the store."""
    return map(split.collator.batch, split.padded_batches(order))


def bench_train(case: Case) -> Result:
    """One network of each cell on the same batches: streamed, or padded in memory in the dtypes of the store.

    And `NETWORKS` networks of the first cell: in one pass, or in a pass each.
    """
    store = random_store(case)
    split = streamed(store)
    order = epoch_order(split.split, case.config.train_batches)
    padded, seconds, rows = list(split.padded_batches(order)), Seconds(), sum(map(len, order))
    sources: dict[str, Callable[[], Iterable[Batch]]] = {
        "streamed": partial(streaming, split, order),
        "in memory": lambda: map(split.collator.batch, padded),
    }
    for cell in CELLS:
        learners = cached_learners(store, "read", {"cell": cell})
        sides = {f"{cell}, {name}": partial(train, learners, source) for name, source in sources.items()}
        seconds |= alternate(sides, case.config.repeats)
    ratios = [ratio(seconds, f"{cell}, streamed", f"{cell}, in memory", "at most 1.05") for cell in CELLS]
    few = partial(streaming, split, order[: max(1, len(order) // SHARE)])
    learners = cached_learners(store, "read", {"cell": CELLS[0]}, NETWORKS)
    together, apart = f"{NETWORKS} in one pass", f"{NETWORKS} passes"
    passes: dict[str, Callable[[], float]] = {
        together: partial(train, learners, few),
        apart: lambda: sum(train([one], few) for one in learners),
    }
    seconds |= alternate(passes, case.config.repeats)
    ratios.append(ratio(seconds, together, apart, "at most 0.6"))
    rates = {f"{cell}_rows_per_second": rows / median(seconds[f"{cell}, streamed"]) for cell in CELLS}
    return Result({"rows": rows, "batch_size": RUN.batch_size} | rates, seconds, ratios)
