"""A training step with a live backbone in the loop / a step from the store."""

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import islice

import torch

from read_cache.backbones import open_backbone
from read_cache.bench.case import Case, random_store
from read_cache.bench.measure import Result, alternate, clock, drain, ratio
from read_cache.bench.train import RUN, epoch_order, read_learner, streamed
from read_cache.config import Place
from read_cache.live.formats import LiveFormat
from read_cache.methods.batches import TokenBatches
from read_cache.methods.lora import LoraConfig
from read_cache.methods.run import LiveSetup
from read_cache.store.reader import StoreReader
from read_cache.training.network_config import NetworkConfig

BATCHES_SHARE = 8
"""`train` steps over this many times more batches."""
TARGETS = {"frozen": "at least 8", "LoRA": "at least 25"}


def bench_live(case: Case) -> Result:
    """Steps of READ RNN-128, from the store or beside the frozen backbone, and of LoRA (rank 8), on the same rows."""
    store, count = random_store(case), max(1, case.config.train_batches // BATCHES_SHARE)
    steps = {"cached": cached_steps(store, count), "frozen": frozen_steps(store, count)}
    steps["LoRA"] = lora_steps(store, count)
    seconds = alternate({name: partial(clock, step) for name, step in steps.items()}, case.config.repeats)
    rows = sum(map(len, epoch_order(store.split("train"), count)))
    ratios = [ratio(seconds, live, "cached", target) for live, target in TARGETS.items()]
    return Result({"network": "rnn-128", "rows": rows, "batch_size": RUN.batch_size}, seconds, ratios)


def cached_steps(store: StoreReader, count: int) -> Callable[[], None]:
    """Return a function that trains READ RNN-128 over `count` batches from a store."""
    learner, split = read_learner(store), streamed(store)
    order = epoch_order(split.split, count)
    return lambda: drain(map(learner.train_step, map(split.collator.batch, split.padded_batches(order))))


def frozen_steps(store: StoreReader, count: int) -> Callable[[], None]:
    """Return a function that trains READ RNN-128 over `count` batches beside the frozen backbone, in bf16."""
    backbone, learner = open_backbone(store.manifest.backbone.name, "bf16"), read_learner(store)
    live = LiveFormat(backbone, store.manifest.format, None, attention=True, raw=False)
    batches = list(islice(TokenBatches(store, "train", backbone, RUN.batch_size, RUN.window).epoch(0, 0), count))

    def steps() -> None:
        for batch in batches:
            with torch.no_grad():
                made = live.live_batch(backbone.forward(batch.tokens, attention=True), batch.tokens)
            learner.train_step(dataclasses.replace(made, targets=batch.targets))

    return steps


def lora_steps(store: StoreReader, count: int) -> Callable[[], None]:
    """Return a function that trains LoRA over `count` batches, as `finetune` does."""
    network = NetworkConfig(kind="lora", settings=LoraConfig())
    prepared = LiveSetup(store.folder).prepare([network], RUN, Place())
    batches = list(islice(prepared.splits["train"].epoch(RUN.order_seed, 0), count))
    return lambda: drain(map(prepared.learners[0].train_step, batches))
