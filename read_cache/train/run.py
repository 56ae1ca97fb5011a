"""Stores in; networks and results.jsonl out."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from read_cache.errors import UserError
from read_cache.evaluate import Evaluator
from read_cache.networks.folder import NetworkRecord, save_network
from read_cache.networks.read import Read
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.train.batches import SplitBatches
from read_cache.train.checkpoint import load_checkpoint, save_checkpoint
from read_cache.train.grid import NetworkConfig, TrainConfig, backbone_shape, check_attention
from read_cache.train.head import Head
from read_cache.train.learner import Learner

Result = dict[str, Any]


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
    store = StoreReader(folder)
    manifest = store.manifest
    for network in networks:
        check_attention(network.read, manifest)
    finished = read_results(out)
    done = [r for r in finished if r["store_digest"] == manifest.digest]
    names = {result["network"] for result in done if result["run"] == dataclasses.asdict(run)}
    waiting = [network for network in networks if network.name not in names]
    wanted = {network.name for network in networks}
    results = [r for r in done if r["network"] in names & wanted and r["run"] == dataclasses.asdict(run)]
    if not waiting:
        return results
    place = out / manifest.task.name
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
    validation = Evaluator(splits["validation"], batches["validation"], head)
    checkpoint = place / "checkpoint.safetensors"
    first_epoch = load_checkpoint(checkpoint, manifest.digest, run, learners)
    started = time.monotonic()
    for epoch in range(first_epoch, run.epochs):
        active = [learner for learner in learners if not learner.stopped]
        if not active:
            break
        for learner in active:
            learner.network.train()
        for number, batch in enumerate(batches["train"].epoch(run.order_seed, epoch)):
            for learner in active:
                if not learner.stopped:
                    learner.train_step(batch, head)
            progress.batch(manifest.task.name, epoch * len(batches["train"]) + number + 1, steps)
        alive = [learner for learner in active if not learner.stopped]
        for learner, result in zip(alive, validation.evaluate([x.network for x in alive]), strict=True):
            learner.end_epoch(result.metric, result.loss, splits["train"].examples)
        save_checkpoint(checkpoint, epoch + 1, manifest.digest, run, learners)
        progress.epoch(manifest.task.name, epoch + 1, run.epochs, learners)
    seconds = time.monotonic() - started

    tests = _test_metrics(learners, Evaluator(splits["test"], batches["test"], head) if "test" in splits else None)
    for learner, test in zip(learners, tests, strict=True):
        result = _result(learner, store, test, place, run, seconds)
        if learner.best:
            save_network(place / learner.config.name, _record(learner, store, result), learner.best)
        results.append(result)
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(result) + "\n" for result in results if result["network"] not in names)
    checkpoint.unlink(missing_ok=True)
    return results


def read_results(out: Path) -> list[Result]:
    """The results a run folder holds so far; a last line cut short by a kill is left out."""
    path = out / "results.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def _test_metrics(learners: list[Learner], evaluator: Evaluator | None) -> list[dict[str, float] | None]:
    trained = [learner for learner in learners if learner.best]
    for learner in trained:
        learner.network.load_state_dict(learner.best)
    if evaluator is None or not trained:
        return [None] * len(learners)
    networks: list[Read | None] = [learner.network for learner in trained]
    details = {id(t): e.details | {"metric": e.metric} for t, e in zip(trained, evaluator.evaluate(networks), strict=True)}
    return [details.get(id(learner)) for learner in learners]


def parameter_count(network: Read) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _result(
    learner: Learner, store: StoreReader, test: dict[str, float] | None, place: Path, run: TrainConfig, seconds: float
) -> Result:
    count = parameter_count(learner.network)
    best = learner.history[learner.best_epoch] if learner.best else {}
    return {
        "task": store.manifest.task.name,
        "network": learner.config.name,
        "validation": best.get("validation"),
        "test": test["metric"] if test else None,
        "test_details": {name: value for name, value in (test or {}).items() if name != "metric"},
        "best_epoch": learner.best_epoch + 1,
        "epochs": len(learner.history),
        "stopped": learner.stopped or "all epochs done",
        "parameters": count,
        "parameters_percent": round(100 * count / store.manifest.backbone.parameters, 4),
        "learning_rate": learner.config.learning_rate,
        "seed": learner.config.seed,
        "read": dataclasses.asdict(learner.config.read),
        "run": dataclasses.asdict(run),
        "history": learner.history,
        "seconds_for_all_networks": round(seconds, 1),
        "folder": str(place / learner.config.name),
        "store": str(store.folder.path),
        "store_digest": store.manifest.digest,
    }


def _record(learner: Learner, store: StoreReader, result: Result) -> NetworkRecord:
    manifest = store.manifest
    shown = ("learning_rate", "seed", "validation", "test", "best_epoch", "epochs", "parameters", "parameters_percent")
    return NetworkRecord(
        name=learner.config.name,
        read=learner.config.read,
        shape=backbone_shape(manifest),
        backbone=manifest.backbone.name,
        backbone_digest=manifest.backbone.digest,
        store_digest=manifest.digest,
        task=manifest.task,
        label_ids=manifest.label_ids,
        max_source_length=manifest.max_source_length,
        dtype=manifest.dtype,
        compute_dtype=manifest.compute_dtype,
        training={name: result[name] for name in shown} | result["run"],
    )
