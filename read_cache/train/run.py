"""Stores in; networks and results.jsonl out."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from read_cache.device import check_device
from read_cache.errors import UserError
from read_cache.evaluate import Evaluator
from read_cache.networks.folder import save_network
from read_cache.networks.read import Read
from read_cache.store.manifest import Manifest, StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.train.batches import SplitBatches
from read_cache.train.checkpoint import load_checkpoint, save_checkpoint
from read_cache.train.grid import NetworkConfig, TrainConfig, backbone_shape, check_attention
from read_cache.train.head import Head
from read_cache.train.learner import Learner
from read_cache.train.results import Result, append_results, finished_results, make_record, make_result
from read_cache.train.statistics import channel_statistics


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run tells whoever watches it."""

    epoch: Callable[[str, int, int, Sequence[Learner]], None] = lambda task, epoch, epochs, learners: None
    """Called after each epoch with the task, the epochs done, the most there will be, and the learners."""
    batch: Callable[[str, int, int], None] = lambda task, done, total: None
    """Called after each batch with the batches done and the most there will be."""


def train_store(
    folder: StoreFolder,
    out: Path,
    networks: list[NetworkConfig],
    run: TrainConfig,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Result]:
    """Train every network on one store, in one read an epoch; save each with its best validation epoch's weights.

    Returns one result a network, which also go to `out/results.jsonl`. Networks that have a result there from this
    store are not trained again. An interrupted run goes on from its last full epoch. Raises UserError.
    """
    progress = progress or Progress()
    check_device(device)
    store = StoreReader(folder)
    manifest = store.manifest
    for network in networks:
        check_attention(network.read, manifest)
    results = finished_results(out, manifest.digest, networks, run)
    finished = {result["network"] for result in results}
    waiting = [network for network in networks if network.name not in finished]
    if not waiting:
        return results
    place = networks_folder(out, manifest)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{place} cannot be written: {error.strerror}") from error

    head, tokens = Head.of(store, device), store.head[0]
    splits = {name: store.split(name) for name in manifest.splits}
    batches = {
        name: SplitBatches(split, tokens, run.batch_size, int(run.memory_gb * 1e9 / len(splits)), device)
        for name, split in splits.items()
    }
    shape, steps = backbone_shape(manifest), len(batches["train"]) * run.epochs
    learners = [Learner(network, run, shape, steps, device) for network in waiting]
    encoder, decoder = channel_statistics(batches["train"])
    for learner in learners:
        learner.network.set_statistics(encoder, decoder)
    checkpoint = place / "checkpoint.safetensors"
    first_epoch = load_checkpoint(checkpoint, manifest.digest, run, learners)
    validation = Evaluator(splits["validation"], batches["validation"], head)
    started = time.monotonic()
    for epoch in range(first_epoch, run.epochs):
        if not train_epoch(learners, batches["train"], validation, head, epoch, progress):
            break
        save_checkpoint(checkpoint, epoch + 1, manifest.digest, run, learners)
        progress.epoch(manifest.task.name, epoch + 1, run.epochs, learners)
    seconds = time.monotonic() - started

    tests = _test_metrics(learners, Evaluator(splits["test"], batches["test"], head) if "test" in splits else None)
    new = []
    for learner, test in zip(learners, tests, strict=True):
        result = make_result(learner, store, test, place, run, seconds)
        if learner.best:
            save_network(place / learner.config.name, make_record(learner, store, result), learner.best)
        new.append(result)
    append_results(out, new)
    checkpoint.unlink(missing_ok=True)
    return results + new


def networks_folder(out: Path, manifest: Manifest) -> Path:
    """Where a run keeps the networks of a store; stores of one task but other settings do not share it."""
    return out / f"{manifest.task.name}-{manifest.digest[:8]}"


def train_epoch(
    learners: list[Learner],
    batches: SplitBatches,
    validation: Evaluator,
    head: Head,
    epoch: int,
    progress: Progress,
) -> bool:
    """Every network that has not stopped takes its step on every batch, then is validated. False: all have stopped."""
    active = [learner for learner in learners if not learner.stopped]
    if not active:
        return False
    run, task = active[0].run, batches.split.manifest.task.name
    for learner in active:
        learner.network.train()
    for number, batch in enumerate(batches.epoch(run.order_seed, epoch), start=epoch * len(batches) + 1):
        for learner in active:
            if not learner.stopped:
                learner.train_step(batch, head)
        progress.batch(task, number, run.epochs * len(batches))
    active = [learner for learner in active if not learner.stopped]
    for learner, scored in zip(active, validation.evaluate([x.network for x in active]), strict=True):
        learner.end_epoch(scored.metric, scored.loss, batches.split.examples)
    return True


def _test_metrics(learners: list[Learner], evaluator: Evaluator | None) -> list[dict[str, float] | None]:
    trained = [learner for learner in learners if learner.best]
    for learner in trained:
        learner.network.load_state_dict(learner.best)
    if evaluator is None or not trained:
        return [None] * len(learners)
    networks: list[Read | None] = [learner.network for learner in trained]
    details = {
        id(t): e.details | {"metric": e.metric} for t, e in zip(trained, evaluator.evaluate(networks), strict=True)
    }
    return [details.get(id(learner)) for learner in learners]
