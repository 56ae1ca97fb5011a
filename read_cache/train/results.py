"""results.jsonl: one line a network, and what a network's folder remembers of it."""

import dataclasses
import fcntl
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from read_cache.errors import UserError
from read_cache.meters.readings import Readings
from read_cache.networks.config import ReadConfig
from read_cache.networks.read import Read
from read_cache.networks.record import NetworkRecord
from read_cache.networks.saved import writing
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.train.grid import NetworkConfig, TrainConfig, backbone_shape
from read_cache.train.learner import Learner

Result = dict[str, Any]


def finished_results(out: Path, store_digest: str, networks: Sequence[NetworkConfig], run: TrainConfig) -> list[Result]:
    """Results that `out` holds of these networks on this store.

    Raises UserError where one was trained there with other settings: its folder would be overwritten.
    """
    wanted = {network.name for network in networks}
    found = [result for result in read_results(out, store_digest) if result["network"] in wanted]
    for result in found:
        if other := {name: value for name, value in run_settings(result).items() if value != getattr(run, name, None)}:
            raise UserError(
                f"{out} holds {result['network']} on {result['task']}, trained with other settings ({other}): "
                "give another --out, or the same settings"
            )
    return found


def run_settings(result: Result) -> dict[str, Any]:
    """The settings of the run that made a result; an older one lacks what came later, which is as by default."""
    return dataclasses.asdict(TrainConfig()) | result["run"]


def read_results(out: Path, store_digest: str = "") -> list[Result]:
    """The results a run folder holds so far, of all stores or one; a last line cut short by a kill is left out."""
    path = out / "results.jsonl"
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            result = json.loads(line)
            result["network"], result["store_digest"], result["run"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}, is no result of a network ({error!r}): delete that line, and the network "
                "it was of is trained again, or give another --out"
            ) from error
        if store_digest in ("", result["store_digest"]):
            results.append(result)
    return results


def append_results(out: Path, results: list[Result]) -> None:
    """Add results to a run folder's, in place of a last line that was cut short. Runs on other stores may add too."""
    path = out / "results.jsonl"
    with writing(path), path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write("".join(json.dumps(result) + "\n" for result in results).encode())


def parameter_count(network: Read) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def make_result(
    learner: Learner,
    store: StoreReader,
    test: dict[str, float] | None,
    place: Path,
    run: TrainConfig,
    readings: Readings,
    extraction: dict[str, Any],
) -> Result:
    count = parameter_count(learner.network)
    best = learner.history[learner.best_epoch] if learner.best else {}
    return {
        "task": store.manifest.task.name,
        "metric": store.manifest.task.metric,
        "backbone": store.manifest.backbone.name,
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
        "seconds_for_all_networks": round(readings.wall_seconds, 1),
        "meters_for_all_networks": readings.to_json(),
        "meters_of_extraction": extraction,
        "examples": {name: split.examples for name, split in store.manifest.splits.items()},
        "folder": str(place / learner.config.name),
        "store": str(store.folder.path),
        "store_digest": store.manifest.digest,
    }


def make_record(learner: Learner, store: StoreReader, result: Result) -> NetworkRecord:
    shown = ("learning_rate", "seed", "validation", "test", "best_epoch", "epochs", "parameters", "parameters_percent")
    training = {name: result[name] for name in shown} | result["run"]
    return bound_record(learner.config.name, learner.config.read, store.manifest, training)


def bound_record(name: str, read: ReadConfig, manifest: Manifest, training: dict[str, Any]) -> NetworkRecord:
    """The record of a network that belongs to a store and its backbone."""
    return NetworkRecord(
        name=name,
        read=read,
        shape=backbone_shape(manifest, read.layers),
        backbone=manifest.backbone.name,
        backbone_digest=manifest.backbone.digest,
        store_digest=manifest.digest,
        task=manifest.task,
        label_ids=manifest.label_ids,
        max_source_length=manifest.max_source_length,
        form=manifest.form,
        compute_dtype=manifest.compute_dtype,
        training=training,
    )
