"""A training step with a live backbone in the loop / a step from the store."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from read_cache.bench.case import Case, random_store
from read_cache.bench.measure import Result, alternate, clock, drain, ratio
from read_cache.bench.train import RUN, epoch_order, read_learner, streamed
from read_cache.config import Place
from read_cache.methods.run import LiveSetup, live_methods
from read_cache.store.reader import StoreReader
from read_cache.training.network_config import NetworkConfig

BATCHES_SHARE = 8
"""`train` steps over this many times more batches."""
TARGETS = {"frozen": "at least 8", "LoRA": "at least 25"}


def bench_live(case: Case) -> Result:
    """Steps of READ RNN-128, from the store or beside the frozen backbone, and of LoRA (rank 8), on the same rows."""
    store, count = random_store(case), max(1, case.config.train_batches // BATCHES_SHARE)
    read = {"cell": "rnn", "attention": "mean", "backbone_dropout": 0}
    steps = {"cached": cached_steps(store, count), "frozen": live_steps(store, count, "frozen_read", **read)}
    steps["LoRA"] = live_steps(store, count, "lora")
    seconds = alternate({name: partial(clock, step) for name, step in steps.items()}, case.config.repeats)
    rows = sum(map(len, epoch_order(store.split("train"), count)))
    ratios = [ratio(seconds, live, "cached", target) for live, target in TARGETS.items()]
    return Result({"network": "rnn-128", "rows": rows, "batch_size": RUN.batch_size}, seconds, ratios)


def cached_steps(store: StoreReader, count: int) -> Callable[[], None]:
    """Return a function that trains READ RNN-128 over `count` batches from a store."""
    learner, split = read_learner(store), streamed(store)
    order = epoch_order(split.split, count)
    return lambda: drain(map(learner.train_step, map(split.collator.batch, split.padded_batches(order))))


def live_steps(store: StoreReader, count: int, kind: str, **settings: Any) -> Callable[[], None]:
    """Return a function that trains a live method over `count` batches, as `finetune` does."""
    network = NetworkConfig(kind=kind, settings=live_methods()[kind](**settings))
    prepared = LiveSetup(store.folder).prepare([network], RUN, Place())
    learner, train = prepared.learners[0], prepared.splits["train"]
    return lambda: drain(map(learner.train_step, islice(train.epoch(RUN.order_seed, 0), count)))
