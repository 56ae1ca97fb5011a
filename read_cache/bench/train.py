"""Training from a store against training from tensors that lie in memory; and what the cache saves an epoch."""

from collections.abc import Callable, Iterable
from functools import partial
from statistics import median

from read_cache.bench.case import Case
from read_cache.bench.extract import forward
from read_cache.bench.measure import Facts, Ratio, Result, Seconds, alternate, clock, ratio
from read_cache.bench.read import RUN, streamed
from read_cache.extract.plan import make_plan
from read_cache.networks.batch import Batch
from read_cache.networks.config import Cell, ReadConfig
from read_cache.store.reader import StoreReader
from read_cache.train.grid import NetworkConfig, backbone_shape
from read_cache.train.head import Head
from read_cache.train.learner import Learner
from read_cache.train.order import epoch_batches

CELLS: tuple[Cell, ...] = ("rnn", "gru")


def bench_train(case: Case, store: StoreReader) -> Result:
    """One network of each cell on the same batches: streamed, padded in memory (stored dtype), ready in float32.

    Padded in memory is the fair comparison: the bytes are where a loader would have put them, in the dtype that was
    computed. Ready in float32, normalised, takes twice the memory and leaves the trainer nothing but the step.
    """
    batches, head, shape = streamed(store), Head.of(store), backbone_shape(store.manifest)
    layout = batches.split.layout
    order = epoch_batches(layout.part_start, layout.length, RUN.batch_size, RUN.window, RUN.order_seed, 0)
    order = order[: case.config.train_batches]
    padded = list(batches.padded_batches(order))
    ready = [batches.collator.batch(one) for one in padded]
    sources: dict[str, Callable[[], Iterable[Batch]]] = {
        "streamed": lambda: map(batches.collator.batch, batches.padded_batches(order)),
        "padded in memory": lambda: map(batches.collator.batch, padded),
        "ready in float32": lambda: ready,
    }

    def train(cell: Cell, source: Callable[[], Iterable[Batch]]) -> float:
        learner = Learner(NetworkConfig(ReadConfig(cell, 128)), RUN, shape, len(order))

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

    plan = make_plan(case.backbone, case.task, case.config.dataset, case.extract)
    seconds |= alternate({"forward": lambda: clock(lambda: forward(plan, case.backbone))}, case.config.repeats)
    rows, forward_rows = sum(map(len, order)), sum(split.examples for split in plan.manifest.splits.values())
    facts: Facts = {"shape": case.config.shape, "rows": rows, "batch_size": RUN.batch_size}
    facts |= {"forward_rows_per_second": forward_rows / median(seconds["forward"])}
    for cell in CELLS:
        facts[f"{cell}_rows_per_second"] = rows / median(seconds[f"{cell}, streamed"])
        scale = rows / forward_rows
        live = [f * scale + r for f, r in zip(seconds["forward"], seconds[f"{cell}, ready in float32"], strict=True)]
        ratios.append(ratio(f"{cell}, epoch with the backbone / from the store", live, seconds[f"{cell}, streamed"]))
    return Result("train", facts, seconds, tuple(ratios))
