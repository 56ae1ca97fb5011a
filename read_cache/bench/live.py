"""A training step with a live backbone in the loop / a step from the store."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from read_cache.bench.case import RECOMMENDED, Case
from read_cache.bench.measure import Result, alternate, ratio
from read_cache.bench.train import RUN, SHARE, epoch_order, read_learners, streamed, streaming, train
from read_cache.config import Place
from read_cache.extraction.fill import fill_store, open_store
from read_cache.methods.run import LiveSetup, live_methods
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.training.network_config import NetworkConfig

TARGETS = {"frozen": "at least 25", "LoRA": "at least 80"}


def bench_live(case: Case) -> Result:
    """Steps of READ RNN-128, from a recommended store or beside the frozen backbone, and of LoRA (rank 8)."""
    folder, count = StoreFolder(case.folder / "recommended"), max(1, case.config.train_batches // SHARE)
    plan = case.plan(RECOMMENDED.replaced(max_examples=case.config.rows // 3))
    writer = open_store(folder, plan, case.backbone)
    assert writer is not None
    fill_store(writer, plan, case.backbone)
    store = StoreReader(folder)
    split, learners = streamed(store), read_learners(store)
    order = epoch_order(split.split, count)
    steps: dict[str, Callable[[], float]] = {"cached": partial(train, learners, partial(streaming, split, order))}
    read = {"cell": "rnn", "attention": "mean", "backbone_dropout": 0}
    steps |= {"frozen": live_steps(store, count, "frozen_read", **read), "LoRA": live_steps(store, count, "lora")}
    seconds = alternate(steps, case.config.repeats)
    ratios = [ratio(seconds, live, "cached", target) for live, target in TARGETS.items()]
    return Result({"network": "rnn-128", "rows": sum(map(len, order)), "batch_size": RUN.batch_size}, seconds, ratios)


def live_steps(store: StoreReader, count: int, kind: str, **settings: Any) -> Callable[[], float]:
    """Return a function that trains a live method over `count` batches, as `finetune` does, and returns its seconds."""
    network = NetworkConfig(kind=kind, settings=live_methods()[kind](**settings))
    prepared = LiveSetup(store.folder).prepare([network], RUN, Place())
    learners, batches = prepared.learners, prepared.splits["train"]
    return partial(train, learners, lambda: islice(batches.epoch(RUN.order_seed, 0), count))
