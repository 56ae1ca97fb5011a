"""What a store and its training will take, all together."""

import dataclasses
import math
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from read_cache.device import free_device_bytes
from read_cache.extract.config import ExtractConfig
from read_cache.loader.tiers import SplitSize, assign_tiers
from read_cache.networks.config import ReadConfig
from read_cache.planning.batches import evaluation_batches, extraction_batches, training_batches
from read_cache.planning.disk import measure_disk, nearest_folder
from read_cache.planning.machine import Kept, Record
from read_cache.planning.memory import (
    available_bytes,
    extraction_bytes,
    part_bytes,
    resident_bytes,
    training_bytes,
    weights_bytes,
)
from read_cache.planning.models import PlannedModel
from read_cache.planning.passes import longest, measure_passes, pass_key
from read_cache.planning.rows import PlannedRows, plan_manifest, plan_rows
from read_cache.planning.steps import measure_steps, step_key
from read_cache.store.files import is_remote
from read_cache.store.manifest import Manifest
from read_cache.store.reader import array_bytes
from read_cache.tasks import Task
from read_cache.train.grid import DEFAULT_MEMORY, TrainConfig
from read_cache.train.stack import is_stacked

HINDRANCE = 2.0
"""What a reader's second costs the steps of threads that multiply on every core: all wait while it has the core of one,
and all share the memory's bandwidth. Between 0.9 and 2.8 within an hour on one machine: not worth a calibration."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What will be trained on the store."""

    read: ReadConfig
    run: TrainConfig
    networks: int = 1
    """So many of that kind in one run."""
    memory: float = DEFAULT_MEMORY
    """GB for parts of the store."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """What was measured on this machine: see `passes.py`, `steps.py` and `disk.py`."""

    passes: Record
    steps: Record
    disk: Record | None
    """None where the store lies at a URL, or where nothing can be written."""
    accelerated: bool

    def pass_seconds(self, features: np.ndarray) -> float:
        """The backbone's forward pass."""
        return float((features @ self.passes["pass"]).sum())

    def step_seconds(self, kind: str, features: np.ndarray, networks: int, first: str = "") -> float:
        """Steps of some networks, `kind` train or evaluate; `first` names another time of a batch's first network."""
        one, more = self.steps[first or f"{kind} one"], self.steps[f"{kind} more"]
        return float((features @ (np.array(one) + (networks - 1) * np.array(more))).sum())

    def beside(self, seconds: float, helping: float, hindrance: float = 1.0) -> float:
        """Work with what its helping threads do, which hides behind it where the work leaves a core to spare."""
        spare = self.accelerated or torch.get_num_threads() < (os.cpu_count() or 1)
        return max(seconds, helping) if spare else seconds + hindrance * helping


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Everything `read-cache plan` says but its recommendation."""

    manifest: Manifest
    rows: PlannedRows
    bytes: dict[str, int]
    """By array."""
    free_bytes: int | None
    """Where the store will lie; None for a URL."""
    extraction_seconds: float
    epoch_seconds: dict[str, float | None]
    """By where the store is held: device (None without one), memory, streamed; and live, without a store."""
    tier: str
    """Where `memory` lets this store be held."""
    peak_bytes: dict[str, dict[str, int]]
    """By stage: host, and device where there is one. What is in use at once: the process keeps freed blocks besides."""

    @property
    def total_bytes(self) -> int:
        """Of all arrays."""
        return sum(self.bytes.values())

    @property
    def cached_epoch(self) -> float:
        """Seconds of an epoch from this store."""
        seconds = self.epoch_seconds[self.tier]
        assert seconds is not None
        return seconds

    @property
    def pays_from_epoch(self) -> int | None:
        """The fewest epochs that take no longer with a store, its extraction counted; None where none ever do."""
        live = self.epoch_seconds["live"]
        saved = (live or 0.0) - self.cached_epoch
        return max(1, math.ceil(self.extraction_seconds / saved)) if saved > 0 else None


def estimate(
    task: Task,
    dataset: str | None,
    model: PlannedModel,
    config: ExtractConfig,
    training: Training,
    store: str,
    device: str,
    kept: Kept,
) -> Estimate:
    """Plan the layout, look up or take the measurements, and work out what follows. Raises UserError."""
    rows = plan_rows(task, dataset, model, config)
    at_first, accelerated = resident_bytes(), torch.device(device).type != "cpu"
    manifest = plan_manifest(task, dataset, model, rows, config)
    held = hold(manifest, training, device)
    costs = measure(model, manifest, config, training, store, device, kept)
    epoch = training_batches(rows.splits["train"], training.run)
    passing, parts = extraction_bytes(model, manifest, rows)
    together = training.networks if is_stacked("auto", device) else 1
    stepping, padded = training_bytes(manifest, epoch, together * costs.steps["saved_bytes"])
    stepping += training.networks * weights_bytes(training.read, manifest)
    peaks = {
        "extraction": _peaks(at_first + parts, passing, accelerated),
        "training": _peaks(at_first + padded + held.host_bytes, stepping + held.device_bytes, accelerated),
    }
    return Estimate(
        manifest,
        rows,
        array_bytes(manifest),
        None if is_remote(store) else shutil.disk_usage(nearest_folder(Path(store))).free,
        _extraction_seconds(manifest, rows, costs),
        _epoch_seconds(manifest, rows, training, costs),
        held.tier,
        peaks,
    )


def measure(
    model: PlannedModel,
    manifest: Manifest,
    config: ExtractConfig,
    training: Training,
    store: str,
    device: str,
    kept: Kept,
) -> Costs:
    """What this machine is known to take, or measured now."""
    passes = kept.get("backbone", pass_key(model, config), lambda: measure_passes(model, config, device))
    most, read, run = longest(config), training.read, training.run
    steps = kept.get(
        "network",
        {"vocabulary": model.config.vocab_size, **step_key(manifest, read, run, most)},
        lambda: measure_steps(manifest, read, run, model.config.vocab_size, most, device),
    )
    disk = None
    if not is_remote(store):
        folder = nearest_folder(Path(store))
        try:
            disk = kept.get("disk", {"disk": folder.stat().st_dev}, lambda: measure_disk(folder))
        except OSError as error:
            kept.tell(f"{folder} cannot be measured, and its times are left out: {error.strerror or error}")
    return Costs(passes, steps, disk, torch.device(device).type != "cpu")


def _extraction_seconds(manifest: Manifest, rows: PlannedRows, costs: Costs) -> float:
    """Filling and sealing; loading the weights and tokenising the rows come before."""
    features = [extraction_batches(split, manifest.batch_tokens).pass_features() for split in rows.splits.values()]
    every = np.concatenate(features)
    computing = costs.pass_seconds(every) + float((every @ costs.passes["take"]).sum())
    if manifest.form.calibrated:  # on the first training part, before it is filled
        part = rows.splits["train"].layout.examples(0)
        tokens = int(rows.splits["train"].layout.length[part].sum())
        fixed, a_token = costs.passes["calibrate"]
        share = tokens / rows.tokens
        computing += share * costs.pass_seconds(every) + fixed + a_token * tokens
    computing += costs.passes["warm up"]
    if costs.disk is None:
        return computing
    total = sum(array_bytes(manifest).values())
    parts = sum(split.parts for split in manifest.splits.values())
    checking = total / costs.disk["check"]
    writing = checking + total / costs.disk["write"]
    busy = checking + total * costs.disk["write_processor_seconds"]
    return max(costs.beside(computing, busy), writing) + writing / parts


def _epoch_seconds(manifest: Manifest, rows: PlannedRows, training: Training, costs: Costs) -> dict[str, float | None]:
    """A pass over the training split and the validation that follows it, by where the activations come from."""
    epoch = training_batches(rows.splits["train"], training.run)
    validation = evaluation_batches(rows.splits["validation"], training.run)
    trained, evaluated = epoch.step_features(), validation.step_features()
    evaluating = costs.step_seconds("evaluate", evaluated, training.networks)
    stepping = costs.step_seconds("train", trained, training.networks) + evaluating
    padding = float((np.concatenate([trained, evaluated]) @ costs.steps["pad"]).sum())
    attention = training.read.attention != "none"
    read = sum(part_bytes(manifest, name, attention) * manifest.splits[name].parts for name in ("train", "validation"))
    reading = fetching = 0.0
    if costs.disk is not None:
        reading = read / costs.disk["map"]
        if read > available_bytes():  # else the page cache keeps what was checked
            reading, fetching = reading + read / costs.disk["check"], read / (costs.disk["read"] or math.inf)
    found: dict[str, float | None] = {
        "device": None,
        "memory": costs.beside(stepping, padding, HINDRANCE),
        "streamed": max(costs.beside(stepping, padding + reading, HINDRANCE), fetching),
    }
    if "train from the device" in costs.steps:
        first = "train from the device"
        found["device"] = costs.step_seconds("train", trained, training.networks, first) + evaluating
    passes = costs.pass_seconds(epoch.pass_features()) + costs.pass_seconds(validation.pass_features())
    return found | {"live": passes + stepping}


@dataclasses.dataclass(frozen=True)
class Held:
    """Where `train` will hold the splits of a store."""

    tier: str
    """Of the training split."""
    host_bytes: int
    device_bytes: int


def hold(manifest: Manifest, training: Training, device: str) -> Held:
    """As `train` decides it. UserError where it would refuse."""
    attention, window = training.read.attention != "none", training.run.window
    sizes = {
        name: SplitSize(part_bytes(manifest, name, attention), info.parts) for name, info in manifest.splits.items()
    }
    tiers = assign_tiers(sizes, window, training.memory * 1e9, free_device_bytes(device))
    whole = {tier: sum(sizes[name].whole_bytes for name in sizes if tiers[name] == tier) for tier in tiers.values()}
    streamed = max((sizes[name].streamed_bytes(window) for name in sizes if tiers[name] == "streamed"), default=0)
    return Held(tiers["train"], whole.get("memory", 0) + streamed, whole.get("device", 0))


def _peaks(host: int, computing: int, accelerated: bool) -> dict[str, int]:
    """What computing takes is the device's where there is one."""
    return {"host": host, "device": computing} if accelerated else {"host": host + computing}
