"""A training step with a live backbone in the loop / a step from the store."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from read_cache.api import extract
from read_cache.bench.case import RECOMMENDED, Case
from read_cache.bench.measure import Result, alternate, ratio
from read_cache.bench.train import RUN, SHARE, cached_learners, epoch_order, streamed, streaming, train
from read_cache.config import Place
from read_cache.methods.run import LiveSetup, live_methods
from read_cache.store.reader import StoreReader
from read_cache.training.network_config import NetworkConfig

RATIOS = {("frozen", "cached"): "at least 25", ("LoRA", "cached"): "at least 80", ("LoRA", "LST cached"): "at least 25"}


def bench_live(case: Case) -> Result:
    """Steps of READ RNN-128, from a recommended store or beside the frozen backbone, of LST from it, and of LoRA."""
    store, count = recommended_store(case), max(1, case.config.train_batches // SHARE)
    order, read = epoch_order(store.split("train"), count), {"cell": "rnn", "attention": "mean"}
    seen = partial(streaming, streamed(store), order)
    raw = partial(streaming, streamed(store, attention=False, raw=True), order)
    steps: dict[str, Callable[[], float]] = {
        "cached": partial(train, cached_learners(store, "read", read), seen),
        "LST cached": partial(train, cached_learners(store, "ladder"), raw),
        "frozen": live_steps(store, count, "frozen_read", backbone_dropout=0, **read),
        "LoRA": live_steps(store, count, "lora"),
    }
    seconds = alternate(steps, case.config.repeats)
    ratios = [ratio(seconds, *sides, target) for sides, target in RATIOS.items()]
    return Result({"network": "rnn-128", "rows": sum(map(len, order)), "batch_size": RUN.batch_size}, seconds, ratios)


def recommended_store(case: Case) -> StoreReader:
    """Return a store of the case's rows in the recommended format, made by the backbone."""
    config = RECOMMENDED.replaced(max_examples=case.config.rows // 3)
    settings, path = config.model_dump(exclude_defaults=True), case.folder / "recommended"
    return extract(str(case.model), case.config.task, path, dataset=case.config.dataset, **settings)


def live_steps(store: StoreReader, count: int, kind: str, **settings: Any) -> Callable[[], float]:
    """Return a function that trains a live method over `count` batches, as `finetune` does, and returns its seconds."""
    network = NetworkConfig(kind=kind, settings=live_methods()[kind](**settings))
    prepared = LiveSetup(store.folder).prepare([network], RUN, Place())
    learners, batches = prepared.learners, prepared.splits["train"]
    return partial(train, learners, lambda: islice(batches.epoch(RUN.order_seed, 0), count))
