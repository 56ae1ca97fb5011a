"""Training from a store / from tensors in memory. Nothing here imports a backbone."""

from collections.abc import Callable, Iterable
from functools import partial
from statistics import median

import numpy as np

from read_cache.bench.case import Case, random_store
from read_cache.bench.measure import Result, Seconds, alternate, clock, drain, ratio
from read_cache.config import Place, RunConfig
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.order import epoch_batches
from read_cache.networks.read import ReadConfig
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.training.from_store import FromStore
from read_cache.training.learner import Learner
from read_cache.training.network_config import NetworkConfig

RUN = RunConfig()
CELLS = ("rnn", "gru")


def epoch_order(split: SplitReader, count: int | None = None) -> list[np.ndarray]:
    """Return the examples of the first `count` batches of an epoch, by default of all."""
    layout = split.layout
    return epoch_batches(layout.part_start, layout.length, RUN.batch_size, RUN.window, RUN.order_seed, 0)[:count]


def streamed(store: StoreReader) -> SplitBatches:
    """Return the training split with memory for two windows of parts and no more."""
    return SplitBatches(store.split("train"), make_collator(store), RUN.batch_size, RUN.window, tier="streamed")


def read_learner(store: StoreReader, cell: str = "rnn") -> Learner:
    """Return a READ network of width 128 before its first step."""
    config = NetworkConfig(kind="read", settings=ReadConfig(cell=cell))
    return FromStore(store.folder).prepare([config], RUN, Place()).learners[0]


def train(learner: Learner, batches: Callable[[], Iterable[Batch]]) -> float:
    """Return the seconds that a step on each batch takes."""
    return clock(lambda: drain(map(learner.train_step, batches())))


def bench_train(case: Case) -> Result:
    """One network of each cell on the same batches: streamed, or padded in memory in the dtypes of the store."""
    store = random_store(case)
    split = streamed(store)
    order = epoch_order(split.split, case.config.train_batches)
    padded = list(split.padded_batches(order))
    sources: dict[str, Callable[[], Iterable[Batch]]] = {
        "streamed": lambda: map(split.collator.batch, split.padded_batches(order)),
        "in memory": lambda: map(split.collator.batch, padded),
    }
    seconds, rows = Seconds(), sum(map(len, order))
    for cell in CELLS:
        learner = read_learner(store, cell)
        sides = {f"{cell}, {name}": partial(train, learner, source) for name, source in sources.items()}
        seconds |= alternate(sides, case.config.repeats)
    ratios = [ratio(seconds, f"{cell}, streamed", f"{cell}, in memory", "at most 1.05") for cell in CELLS]
    rates = {f"{cell}_rows_per_second": rows / median(seconds[f"{cell}, streamed"]) for cell in CELLS}
    return Result({"rows": rows, "batch_size": RUN.batch_size} | rates, seconds, ratios)
