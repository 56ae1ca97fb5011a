"""Live backbones: a step with one in the loop / a step from the store; networks beside one / the backbone alone."""

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import islice
from statistics import median

import torch

from read_cache.backbones import TokenBatch, open_backbone
from read_cache.bench.case import RECOMMENDED, Case, random_store
from read_cache.bench.measure import Facts, Result, alternate, clock, drain, ratio
from read_cache.bench.train import RUN, Stepping, cached_steps, epoch_order
from read_cache.config import ExtractConfig, Place
from read_cache.live.attached import Attached
from read_cache.live.formats import LiveFormat
from read_cache.methods.batches import TokenBatches
from read_cache.methods.lora import LoraConfig
from read_cache.methods.run import LiveSetup
from read_cache.networks.base import NetworkShape, build_network
from read_cache.networks.read import ReadConfig
from read_cache.networks.record import NetworkRecord
from read_cache.networks.saved import TrainedNetwork
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.training.network_config import NetworkConfig

CELLS, MANY = ("rnn", "gru"), 7
"""Cells and number of the networks beside a live backbone."""
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
    steps |= {"frozen": frozen_steps(plain, count), "LoRA": lora_steps(plain, count)}
    seconds = alternate({name: partial(clock, step) for name, step in steps.items()}, case.config.repeats)
    rows = sum(map(len, epoch_order(plain.split("train"), count)))
    table: list[Facts] = [{"side": name, "rows a second": rows / median(times)} for name, times in seconds.items()]
    ratios = [ratio(seconds, *sides, target) for sides, target in TARGETS.items()]
    return Result({"network": "rnn-128", "rows": rows, "batch_size": RUN.batch_size}, seconds, ratios, table)


def frozen_steps(store: StoreReader, count: int) -> Callable[[], None]:
    """Return a function that trains READ RNN-128 over `count` batches beside the frozen backbone, in bf16."""
    backbone = open_backbone(store.manifest.backbone.name, "bf16")
    learner = Stepping(store).learner()
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


def bench_attach(case: Case) -> Result:
    """Label probabilities of validation rows, against the forward pass alone with the same outputs."""
    plan, backbone = case.plan(ExtractConfig(max_examples=case.config.rows // 3)), case.backbone
    manifest, split = plan.manifest, plan.splits["validation"]
    order = split.layout.length.argsort()[::-1].tolist()
    batches = [
        TokenBatch.of_plan(manifest.backbone, split.arrays, order[start : start + RUN.batch_size])
        for start in range(0, len(order), RUN.batch_size)
    ]

    def forward() -> None:
        with torch.inference_mode():
            for batch in batches:
                backbone.forward(batch, attention=True)

    def classify(attached: Attached) -> None:
        for batch in batches:
            source = batch.stacks["encoder"]
            attached.label_probabilities(source.ids, source.mask)

    sides = {"forward": partial(clock, forward)}
    for cell in CELLS:
        for count in (1, MANY):
            attached = Attached(backbone, random_networks(manifest, cell, count))
            sides[f"{cell}, {count}"] = partial(clock, partial(classify, attached))
    seconds = alternate(sides, case.config.repeats)
    ratios = [ratio(seconds, f"{cell}, {MANY}", f"{cell}, 1", "at most 1.15") for cell in CELLS]
    ratios += [ratio(seconds, f"{cell}, 1", "forward") for cell in CELLS]
    facts: Facts = {"dtype": backbone.dtype, "rows": len(order), "batch_rows": RUN.batch_size}
    return Result(facts | {"forward_rows_per_second": len(order) / median(seconds["forward"])}, seconds, ratios)


def random_networks(manifest: Manifest, cell: str, count: int) -> dict[str, TrainedNetwork]:
    """Return READ networks of width 128 and different seeds that change what the backbone predicts."""
    settings = ReadConfig(cell=cell, attention="mean")
    names = ("backbone", "activations_digest", "task_digest", "task", "label_ids", "format")
    common, networks = {name: getattr(manifest, name) for name in names}, {}
    for seed in range(count):
        network = build_network("read", settings, NetworkShape.of(manifest.backbone, manifest.format), seed)
        torch.nn.init.normal_(network.U, std=0.01)  # type: ignore[arg-type]
        record = NetworkRecord(
            **common, name=f"{cell}-{seed}", kind="read", config=settings.values(), seed=seed, learning_rate=5e-4,
            head={}, run={}, scores={}, max_source_length=manifest.activations.max_source_length,
            compute_dtype=manifest.activations.compute_dtype,
        )  # fmt: skip
        networks[record.name] = TrainedNetwork(network, {}, record, None)
    return networks
