"""Training from a store against training from tensors that lie in memory."""

from collections.abc import Callable, Iterable
from functools import partial
from statistics import median

from read_cache.bench.case import Case
from read_cache.bench.measure import Facts, Ratio, Result, Seconds, alternate, ratio
from read_cache.bench.read import RUN, epoch_order, streamed
from read_cache.loader.batch import Batch
from read_cache.loader.statistics import channel_statistics
from read_cache.networks.config import Cell, ReadConfig
from read_cache.planning.timing import clock
from read_cache.scoring.heads import Head
from read_cache.store.reader import StoreReader
from read_cache.train.grid import NetworkConfig, backbone_shape
from read_cache.train.learner import Learner

CELLS: tuple[Cell, ...] = ("rnn", "gru")


def bench_train(case: Case, store: StoreReader) -> Result:
    """One network of each cell on the same batches: streamed, padded in memory (stored dtype), ready in float32.

    Padded in memory is the fair comparison: the bytes are where a loader would have put them, in the dtype that was
    computed. Ready in float32, normalised, takes twice the memory and leaves the trainer nothing but the step.
    """
    batches, head, shape = streamed(store), Head.of(store), backbone_shape(store.manifest)
    order = epoch_order(batches.split)[: case.config.train_batches]
    statistics = channel_statistics(batches)
    padded = list(batches.padded_batches(order))
    ready = [batches.collator.batch(one) for one in padded]
    sources: dict[str, Callable[[], Iterable[Batch]]] = {
        "streamed": lambda: map(batches.collator.batch, batches.padded_batches(order)),
        "padded in memory": lambda: map(batches.collator.batch, padded),
        "ready in float32": lambda: ready,
    }

    def train(cell: Cell, source: Callable[[], Iterable[Batch]]) -> float:
        learner = Learner(NetworkConfig(ReadConfig(cell, 128)), RUN, shape, len(order))
        learner.network.set_statistics(*statistics)

        def steps() -> None:
            for batch in source():
                learner.train_step(batch, head)

        return clock(steps)

    seconds: Seconds = {}
    ratios: list[Ratio] = []
    for cell in CELLS:
        sides = {f"{cell}, {name}": partial(train, cell, source) for name, source in sources.items()}
        seconds |= alternate(sides, case.config.repeats)
        streaming, in_memory = seconds[f"{cell}, streamed"], seconds[f"{cell}, padded in memory"]
        ratios.append(ratio(f"{cell}, streamed / padded in memory", streaming, in_memory, "at most 1.05"))
        ratios.append(ratio(f"{cell}, streamed / ready in float32", streaming, seconds[f"{cell}, ready in float32"]))

    rows = sum(map(len, order))
    facts: Facts = {"shape": case.config.shape, "rows": rows, "batch_size": RUN.batch_size}
    for cell in CELLS:
        facts[f"{cell}_rows_per_second"] = rows / median(seconds[f"{cell}, streamed"])
    return Result("train", facts, seconds, tuple(ratios))
