"""A training step with a live backbone in the loop / a step from the store."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from read_cache.api.extraction import extract
from read_cache.bench.case import PLAIN, RECOMMENDED, Case
from read_cache.bench.measure import Result, alternate, ratio
from read_cache.bench.train import RUN, SHARE, cached_learners, epoch_order, streamed, streaming, train
from read_cache.config import ExtractConfig, Place
from read_cache.methods.run import LiveSetup, live_methods
from read_cache.store.reader import StoreReader
from read_cache.training.compiled import compiled
from read_cache.training.network_config import NetworkConfig

RATIOS = {
    ("frozen", "cached"): "at least 25",
    ("LoRA", "cached"): "at least 80",
    ("LoRA", "LST cached"): "at least 25",
    ("cached", "cached, bf16"): "at most 0.4",
}


def bench_live(case: Case) -> Result:
    """Steps of READ RNN-128, from a recommended or a bf16 store or beside the frozen backbone; of LST; and of LoRA.

    With `compile`, also of READ compiled by torch, which the first round does.
    """
    store, plain = made_store(case, "recommended", RECOMMENDED), made_store(case, "plain", PLAIN)
    count, read = max(1, case.config.train_batches // SHARE), {"cell": "rnn", "attention": "mean"}
    order = epoch_order(store.split("train"), count)
    raw = streamed(store, attention=False, raw=True)
    steps: dict[str, Callable[[], float]] = {
        "cached": partial(train, cached_learners(store, "read", read), partial(streaming, streamed(store), order)),
        "cached, bf16": partial(
            train, cached_learners(plain, "read", read), partial(streaming, streamed(plain), order)
        ),
        "LST cached": partial(train, cached_learners(store, "ladder"), partial(streaming, raw, order)),
        "frozen": live_steps(store, count, "frozen_read", backbone_dropout=0, **read),
        "LoRA": live_steps(store, count, "lora"),
    }
    targets = dict(RATIOS)
    if case.config.compile:
        (learner,) = made = cached_learners(store, "read", read)
        learner.loss = compiled(print)(learner.model)
        steps["cached, compiled"] = partial(train, made, partial(streaming, streamed(store), order))
        targets["LoRA", "cached, compiled"] = RATIOS["LoRA", "cached"]
    seconds = alternate(steps, case.config.repeats)
    ratios = [ratio(seconds, *sides, target) for sides, target in targets.items()]
    return Result({"network": "rnn-128", "rows": sum(map(len, order)), "batch_size": RUN.batch_size}, seconds, ratios)


def made_store(case: Case, name: str, config: ExtractConfig) -> StoreReader:
    """Return a store of the case's rows in a format, made by the backbone."""
    settings = config.replaced(max_examples=case.config.rows // 3).model_dump(exclude_defaults=True)
    return extract(str(case.model), case.config.task, case.folder / name, dataset=case.config.dataset, **settings)


def live_steps(store: StoreReader, count: int, kind: str, **settings: Any) -> Callable[[], float]:
    """Return a function that trains a live method over `count` batches, as `finetune` does, and returns its seconds."""
    network = NetworkConfig(kind=kind, settings=live_methods()[kind](**settings))
    prepared = LiveSetup(store.folder).prepare([network], RUN, Place())
    learners, batches = prepared.learners, prepared.splits["train"]
    return partial(train, learners, lambda: islice(batches.epoch(RUN.order_seed, 0), count))
