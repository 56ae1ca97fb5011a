"""Training on the sample's store, whose splits are held where those of the whole store will be."""

import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from read_cache.config import Place, RunConfig
from read_cache.device import free_device_bytes
from read_cache.extraction.plan import Plan
from read_cache.loader.batches import SplitBatches
from read_cache.loader.order import epoch_batches, store_batches
from read_cache.loader.tiers import SplitSize, Tier, assign_tiers
from read_cache.store.folder import StoreFolder
from read_cache.store.layout import Layout
from read_cache.store.manifest import Manifest
from read_cache.store.schema import activation_arrays
from read_cache.training.from_store import FromStore
from read_cache.training.loop import evaluate_learners
from read_cache.training.network_config import NetworkConfig
from read_cache.training.stack import steppers

STEPS = 32
"""Training steps that are timed, at least, if the sample has so many in ten epochs."""


def train_sample(
    folder: Path, plan: Plan, networks: Sequence[NetworkConfig], run: RunConfig, place: Place
) -> tuple[dict[str, float], Tier]:
    """Train a few epochs on `folder`/store; return seconds of the whole run by work, and the training split's tier.

    The seconds are scaled by the number of padded tokens; the last entry is their sum. Checkpoints are not counted.
    Raises UserError, also if the whole store's parts do not fit into memory.
    """
    started, setup = time.perf_counter(), FromStore(StoreFolder(folder / "store"))
    whole = {name: split.layout for name, split in plan.splits.items()}
    setup.check(networks, plan.manifest)
    prepared = setup.prepare(networks, run, place)
    splits = {name: split for name, split in prepared.splits.items() if isinstance(split, SplitBatches)}
    sizes = {name: whole_size(plan.manifest, name, split) for name, split in splits.items()}
    tiers = assign_tiers(sizes, run.window, place.memory * 1e9, free_device_bytes(place.device))
    for name, split in splits.items():
        split.tier = tiers[name]
    train, validation = splits["train"], splits["validation"]
    stepping = list(steppers(prepared.learners, place.stacked))
    begun, rates = time.perf_counter(), list[tuple[float, float]]()
    for epoch in range(1 + min(10, max(3, -(-STEPS // len(train))))):
        before = time.perf_counter()
        for learner in prepared.learners:
            learner.model.train()
        for batch in train.epoch(run.order_seed, epoch):
            for stepper in stepping:
                stepper.train_step(batch)
        for learner in prepared.learners:
            learner.read_losses()  # waits for the device
        trained = time.perf_counter()
        evaluate_learners(prepared.learners, validation)
        tokens = trained_tokens(train.split.layout, run, epoch), evaluated_tokens(validation.split.layout, run)
        rates.append(((trained - before) / tokens[0], (time.perf_counter() - trained) / tokens[1]))
    # the first epoch reads the files from the disk and is the first with batches of each shape
    step, evaluation = (statistics.median(rate) for rate in zip(*rates[1:], strict=True))
    seconds = {
        "start of training": begun - started,
        "training epoch": step * trained_tokens(whole["train"], run, 0),
        "validation": evaluation * evaluated_tokens(whole["validation"], run),
        "test": evaluation * evaluated_tokens(whole["test"], run) if "test" in whole else 0.0,
    }
    epochs = run.epochs * (seconds["training epoch"] + seconds["validation"])
    seconds["training"] = seconds["start of training"] + epochs + seconds["test"]
    return seconds, tiers["train"]


def trained_tokens(layout: Layout, run: RunConfig, epoch: int) -> int:
    """Return the padded tokens of an epoch's batches."""
    order = epoch_batches(layout.part_start, layout.length, run.batch_size, run.window, run.order_seed, epoch)
    return _padded(layout, order)


def evaluated_tokens(layout: Layout, run: RunConfig) -> int:
    """Return the padded tokens of an evaluation's batches."""
    return _padded(layout, store_batches(len(layout.length), run.batch_size))


def _padded(layout: Layout, batches: Iterable[np.ndarray]) -> int:
    length = next(iter(layout.selected.values()), layout.length)
    return sum(len(batch) * int(length[batch].max()) for batch in batches)


def whole_size(whole: Manifest, name: str, sample: SplitBatches) -> SplitSize:
    """Return the size of a split of the whole store, of the arrays and layers that the sample's batches read."""
    read, layers = sample.collator.arrays, sample.collator.format.array_layers
    arrays = [spec for spec in activation_arrays(whole.backbone, whole.format) if spec.name in read]
    part = sum(whole.shard(spec, name).stride * len(layers(spec.name)) for spec in arrays)
    return SplitSize(part, whole.splits[name].parts)
