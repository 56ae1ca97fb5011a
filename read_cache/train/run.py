"""Stores in; networks and results.jsonl out."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from read_cache.device import check_device, free_device_bytes
from read_cache.errors import UserError
from read_cache.evaluate import Evaluator
from read_cache.layers import parse_layers
from read_cache.meters.sessions import sessions_json
from read_cache.meters.stage import meter_stage
from read_cache.networks.config import ReadConfig
from read_cache.networks.folder import save_network, writing
from read_cache.networks.read import Read
from read_cache.store.manifest import Manifest, StoreFolder
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.train.batches import SplitBatches, make_collator
from read_cache.train.checkpoint import Checkpoint, Position, interrupt_between_steps
from read_cache.train.grid import DEFAULT_MEMORY, NetworkConfig, TrainConfig, backbone_shape, check_attention
from read_cache.train.head import Head
from read_cache.train.learner import Learner
from read_cache.train.results import Result, append_results, finished_results, make_record, make_result
from read_cache.train.search import dropped_networks
from read_cache.train.stack import Stack, Stacking, is_stacked, steppers
from read_cache.train.statistics import channel_statistics


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run tells whoever watches it."""

    begin: Callable[[str, int, str], None] = lambda task, networks, tier: None
    """Called once with the task, how many networks train on it, and where the training split's parts are held."""
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
        check_attention(network.read, manifest)
    results = finished_results(out, manifest.digest, networks, run)
    finished = {result["network"] for result in results}
    waiting = [network for network in networks if network.name not in finished]
    if not waiting:
        return results
    place = networks_folder(out, manifest)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)

    with meter_stage("train", device, p0_watts) as meter:
        head = Head.of(store, device)
        splits, batches = open_batches(store, [network.read for network in waiting], run, device, memory)
        progress.begin(manifest.task.name, len(waiting), batches["train"].tier)
        shapes = [backbone_shape(manifest, network.read.layers) for network in waiting]
        steps = len(batches["train"]) * run.epochs
        learners = [Learner(n, run, shape, steps, device) for n, shape in zip(waiting, shapes, strict=True)]
        encoder, decoder = channel_statistics(batches["train"])
        for learner in learners:
            learner.network.set_statistics(encoder, decoder)
        checkpoint = Checkpoint(place / "checkpoint.safetensors", manifest.digest, run, learners, meter)
        position = checkpoint.load()
        validation = Evaluator(splits["validation"], batches["validation"], head)
        with interrupt_between_steps() as interrupted:
            while position.epoch < run.epochs and any(not learner.stopped for learner in learners):
                stepping = steppers(learners, is_stacked(stacking, device))
                train_epoch(stepping, learners, batches["train"], head, position, checkpoint, interrupted, progress)
                position = Position(position.epoch + 1)
                end_epoch(learners, validation, batches["train"].split.examples, position.epoch)
                checkpoint.save(position)
                progress.epoch(manifest.task.name, position.epoch, run.epochs, learners)

        tests = _test_metrics(learners, Evaluator(splits["test"], batches["test"], head) if "test" in splits else None)
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


def networks_folder(out: Path, manifest: Manifest) -> Path:
    """Where a run keeps the networks of a store; stores of one task but other settings do not share it."""
    return out / f"{manifest.task.name}-{manifest.digest[:8]}"


def open_batches(
    store: StoreReader, networks: Sequence[ReadConfig], run: TrainConfig, device: str, memory: float
) -> tuple[dict[str, SplitReader], dict[str, SplitBatches]]:
    """Splits and their batches, with what the networks need of them; `memory` GB are given to the smallest first.

    A split that is streamed needs two windows of parts, and only one is read at a time.
    """
    if not 0 < memory < float("inf"):
        raise UserError(f"--memory is {memory}, expected more than 0")
    needed = None if any(read.layers == "all" for read in networks) else set[int]()
    for read in networks:
        if needed is not None:
            needed |= set(parse_layers(read.layers) or ())
    attention = any(read.attention != "none" for read in networks)
    collator = make_collator(store, device, needed)
    splits = {name: store.split(name) for name in store.manifest.splits}
    free_bytes, device_bytes = memory * 1e9, free_device_bytes(device)
    batches = {}
    for name in sorted(splits, key=lambda name: splits[name].examples):
        found = SplitBatches(splits[name], collator, run.batch_size, run.window, free_bytes, device_bytes, attention)
        batches[name] = found
        if found.on_device:
            device_bytes -= found.part_bytes * splits[name].parts
        elif found.kept:
            free_bytes -= found.part_bytes * splits[name].parts
    return splits, batches


def train_epoch(
    stepping: Sequence[Learner | Stack],
    learners: list[Learner],
    batches: SplitBatches,
    head: Head,
    position: Position,
    checkpoint: Checkpoint,
    interrupted: Callable[[], bool],
    progress: Progress,
) -> None:
    """Every network that has not stopped takes its step on every batch of an epoch, from `position` on.

    The state is saved now and then, and before KeyboardInterrupt is raised.
    """
    run, task = learners[0].run, batches.split.manifest.task.name
    for learner in learners:
        learner.network.train()
    done, total = position.epoch * len(batches), run.epochs * len(batches)
    for number, batch in enumerate(batches.epoch(run.order_seed, position.epoch, position.batch), position.batch + 1):
        for stepper in stepping:
            if not stepper.stopped:
                stepper.train_step(batch, head)
        if interrupted():
            checkpoint.save(Position(position.epoch, number))
            raise KeyboardInterrupt
        if number < len(batches):
            checkpoint.save_if_due(Position(position.epoch, number))
        progress.batch(task, done + number, total)


def end_epoch(learners: list[Learner], validation: Evaluator, examples: int, epoch: int) -> None:
    """Validate the networks that have not stopped, and drop those that lose where that is asked for."""
    active = [learner for learner in learners if not learner.stopped]
    for learner, scored in zip(active, validation.evaluate([x.network for x in active]), strict=True):
        learner.end_epoch(scored.metric, scored.loss, examples)
    active = [learner for learner in active if not learner.stopped]
    scores = [learner.score(learner.best_epoch) for learner in active]
    for place, why in dropped_networks(scores, epoch, learners[0].run).items():
        active[place].stopped = why


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
