"""Stores in; networks and results.jsonl out."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from read_cache.device import check_device, free_device_bytes
from read_cache.errors import UserError
from read_cache.layers import parse_layers
from read_cache.loader.batches import SplitBatches, make_collator, split_size
from read_cache.loader.statistics import channel_statistics
from read_cache.loader.tiers import assign_tiers
from read_cache.meters.sessions import sessions_json
from read_cache.meters.stage import meter_stage
from read_cache.networks.config import ReadConfig
from read_cache.networks.saved import alone, save_network, writing
from read_cache.scoring.evaluator import Evaluator
from read_cache.scoring.heads import Head
from read_cache.store.manifest import Manifest, StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.train.checkpoint import Checkpoint, discard_finished
from read_cache.train.grid import DEFAULT_MEMORY, NetworkConfig, TrainConfig, backbone_shape, check_network
from read_cache.train.learner import Learner
from read_cache.train.loop import Progress, TogetherTraining
from read_cache.train.results import (
    Result,
    append_results,
    finished_results,
    make_record,
    make_result,
    read_results,
)
from read_cache.train.stack import Stacking, is_stacked


def train_store(
    folder: StoreFolder,
    out: Path,
    networks: list[NetworkConfig],
    run: TrainConfig,
    device: str = "cpu",
    progress: Progress | None = None,
    memory: float = DEFAULT_MEMORY,
    stacking: Stacking = "auto",
    p0_watts: float | None = None,
) -> list[Result]:
    """Train every network on one store, in one read an epoch; save each with its best validation epoch's weights.

    Returns one result a network, which also go to `out/results.jsonl`. Networks that have a result there from this
    store are not trained again. An interrupted run goes on from its last checkpoint. `memory`, in GB, bounds what is
    held of the store, and changes no batch. `stacking` says whether like networks step together; `p0_watts` is
    the device's power at full utilisation, by default the board's limit. Raises UserError.
    """
    progress = progress or Progress()
    check_device(device)
    store = StoreReader(folder)
    manifest = store.manifest
    for network in networks:
        check_network(network.read, manifest)
    place = networks_folder(out, manifest)
    checkpoint_file = place / "checkpoint.safetensors"
    results, waiting = so_far(out, manifest, networks, run)
    if not waiting and not checkpoint_file.exists():
        return results
    with training_alone(place):
        results, waiting = so_far(out, manifest, networks, run)  # another run may just have ended
        finished = {result["network"] for result in read_results(out, manifest.digest)}
        discard_finished(checkpoint_file, finished)
        if not waiting:
            return results
        with meter_stage("train", device, p0_watts) as meter:
            batches = open_batches(store, [network.read for network in waiting], run, device, memory)
            progress.begin(manifest.task.name, len(waiting), batches["train"].where)
            learners = make_learners(waiting, run, batches["train"], device)
            checkpoint = Checkpoint(checkpoint_file, manifest.digest, run, learners, meter, finished)
            head, stacked = Head.of(store, device), is_stacked(stacking, device)
            training = TogetherTraining(learners, batches, head, checkpoint, run, stacked, progress)
            training.train()
            tests = training.test_metrics()
        new, extraction = [], sessions_json(folder.files)
        for learner, test in zip(learners, tests, strict=True):
            result = make_result(learner, store, test, place, run, meter.read(), extraction)
            if learner.best:
                record = make_record(learner, store, result)
                save_network(place / learner.config.name, record, learner.best, store.calibration)
            new.append(result)
        append_results(out, new)
        checkpoint.remove()
    return results + new


def so_far(
    out: Path, manifest: Manifest, networks: Sequence[NetworkConfig], run: TrainConfig
) -> tuple[list[Result], list[NetworkConfig]]:
    """(results that are there, networks without one). Raises UserError."""
    results = finished_results(out, manifest.digest, networks, run)
    finished = {result["network"] for result in results}
    return results, [network for network in networks if network.name not in finished]


def make_learners(
    networks: Sequence[NetworkConfig], run: TrainConfig, batches: SplitBatches, device: str
) -> list[Learner]:
    """Networks before their first step, with the channel statistics of the training split."""
    manifest, steps = batches.split.manifest, len(batches) * run.epochs
    learners = [Learner(n, run, backbone_shape(manifest, n.read.layers), steps, device) for n in networks]
    encoder, decoder = channel_statistics(batches)
    for learner in learners:
        learner.network.set_statistics(encoder, decoder)
    return learners


@contextlib.contextmanager
def training_alone(place: Path) -> Iterator[None]:
    """Hold the folder of a run's networks. UserError where another run trains there, or it cannot be written."""
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    mend = "wait for it, and the same command takes its results over; or give another --out"
    with alone(place, place / "training.lock", "another run is training in", mend):
        yield


def networks_folder(out: Path, manifest: Manifest) -> Path:
    """Where a run keeps the networks of a store; stores of one task but other settings do not share it."""
    return out / f"{manifest.task.name}-{manifest.digest[:8]}"


def open_batches(
    store: StoreReader,
    networks: Sequence[ReadConfig],
    run: TrainConfig,
    device: str,
    memory: float,
    names: Collection[str] | None = None,
) -> dict[str, SplitBatches]:
    """Batches of every split or some, with what the networks need of them, held within `memory` GB (`tiers.py`)."""
    if not 0 < memory < float("inf"):
        raise UserError(f"--memory is {memory}, expected more than 0")
    needed = None if any(read.layers == "all" for read in networks) else set[int]()
    for read in networks:
        if needed is not None:
            needed |= set(parse_layers(read.layers) or ())
    attention = any(read.attention != "none" for read in networks)
    collator = make_collator(store, device, needed)
    splits = {name: store.split(name) for name in names or store.manifest.splits}
    sizes = {name: split_size(split, collator, attention) for name, split in splits.items()}
    tiers = assign_tiers(sizes, run.window, memory * 1e9, free_device_bytes(device))
    return {
        name: SplitBatches(split, collator, run.batch_size, run.window, tiers[name], attention)
        for name, split in splits.items()
    }


def open_evaluator(
    store: StoreReader,
    networks: Sequence[ReadConfig],
    split: str,
    device: str = "cpu",
    memory: float = DEFAULT_MEMORY,
    batch_size: int = 128,
) -> Evaluator:
    """What evaluates such networks on one split of a store. Raises UserError."""
    batches = open_batches(store, networks, TrainConfig(batch_size=batch_size), device, memory, [split])[split]
    return Evaluator(batches.split, batches, Head.of(store, device))
