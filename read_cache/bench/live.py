"""A training step with a live backbone in the loop / a step from the store."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from statistics import median
from typing import Any

from read_cache.bench.case import RECOMMENDED, Case, random_store
from read_cache.bench.measure import Facts, Result, alternate, clock, drain, ratio
from read_cache.bench.train import RUN, cached_steps, epoch_order
from read_cache.config import Place
from read_cache.methods.run import LiveSetup, live_methods
from read_cache.store.reader import StoreReader
from read_cache.training.network_config import NetworkConfig

BATCHES_SHARE = 8
"""`train` steps over this many times more batches."""
TARGETS = {
    ("frozen", "cached, bf16"): "at least 8",
    ("frozen", "cached, recommended"): "at least 25",
    ("LoRA", "cached, bf16"): "at least 25",
    ("LoRA", "cached, recommended"): "at least 80",
}


def bench_live(case: Case) -> Result:
    """Steps of READ RNN-128, from the store or beside the frozen backbone, and of LoRA (rank 8), on the same rows."""
    count = max(1, case.config.train_batches // BATCHES_SHARE)
    stores = {"cached, bf16": random_store(case), "cached, recommended": random_store(case, RECOMMENDED)}
    plain = stores["cached, bf16"]
    steps = {name: cached_steps(store, count) for name, store in stores.items()}
    read = {"cell": "rnn", "attention": "mean", "backbone_dropout": 0}
    steps |= {"frozen": live_steps(plain, count, "frozen_read", **read), "LoRA": live_steps(plain, count, "lora")}
    seconds = alternate({name: partial(clock, step) for name, step in steps.items()}, case.config.repeats)
    rows = sum(map(len, epoch_order(plain.split("train"), count)))
    table: list[Facts] = [{"side": name, "rows a second": rows / median(times)} for name, times in seconds.items()]
    ratios = [ratio(seconds, *sides, target) for sides, target in TARGETS.items()]
    return Result({"network": "rnn-128", "rows": rows, "batch_size": RUN.batch_size}, seconds, ratios, table)


def live_steps(store: StoreReader, count: int, kind: str, **settings: Any) -> Callable[[], None]:
    """Return a function that trains a live method over `count` batches, as `finetune` does."""
    network = NetworkConfig(kind=kind, settings=live_methods()[kind](**settings))
    prepared = LiveSetup(store.folder).prepare([network], RUN, Place())
    learner, train = prepared.learners[0], prepared.splits["train"]
    return lambda: drain(map(learner.train_step, islice(train.epoch(RUN.order_seed, 0), count)))
