"""A run: networks that train together, from a store's folder to saved networks and results.jsonl.

The same for side networks (`from_store.py`) and for live methods: a `Setup` makes the learners and saves them.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from read_cache.config import Place, RunConfig
from read_cache.device import check_device
from read_cache.engines import open_engine
from read_cache.errors import UserError
from read_cache.meters.meter import meter_stage
from read_cache.meters.sessions import sessions_json
from read_cache.networks.saved import alone, writing
from read_cache.scoring.evaluator import Batches, Evaluation
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest
from read_cache.training.checkpoint import Checkpoint, discard_finished
from read_cache.training.learner import Learner
from read_cache.training.loop import Progress, train_together
from read_cache.training.memory import enough_memory
from read_cache.training.network_config import NetworkConfig
from read_cache.training.results import Result, StopReason, append_results, finished_results, read_results
from read_cache.training.stack import is_stacked


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Learners before their first step, and what they train on."""

    learners: list[Learner]
    splits: Mapping[str, Batches]
    """By name: train, validation, and test if there is one."""
    where: str = ""
    """Where the training split is held, for people."""


class Setup(Protocol):
    """What a run needs to know of its networks. Engines with processes of their own need it to be picklable."""

    @property
    def folder(self) -> StoreFolder:
        """The store that the rows come from, sealed."""

    @property
    def cached(self) -> bool:
        """Networks read the store's activations, in one pass for all; otherwise each is a work unit of its own."""

    def check(self, network: NetworkConfig, manifest: Manifest) -> None:
        """Raise UserError if this network cannot be trained on the store."""

    def prepare(self, networks: Sequence[NetworkConfig], run: RunConfig, place: Place) -> Prepared:
        """Return one learner a network. Raises UserError."""

    def save(self, learner: Learner, result: Result) -> None:
        """Write the network, whose model has the weights of its best epoch, to `result.folder`."""

    def divergence(self) -> str:
        """Return why the loss of every network may have become infinite or NaN, and what to do."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Networks that train together: one work unit."""

    networks: list[NetworkConfig]
    checkpoint: str
    """File name of its checkpoint."""


def train_networks(
    setup: Setup,
    networks: Sequence[NetworkConfig],
    run: RunConfig,
    out: Path,
    place: Place | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Train networks on one store, all of a group in one pass over it per epoch.

    Each network is saved with the weights of its best validation epoch. Networks that have a result in `out` are
    skipped, and an interrupted run continues from its checkpoint.

    Args:
        setup: makes and saves the networks.
        networks: configurations with different names.
        run: settings that the networks share.
        out: folder for the networks and results.jsonl.
        place: device, memory and engine.
        progress: functions to call.

    Returns:
        One result for each network, in their order.

    Raises:
        UserError: for networks that do not fit the store, results with other settings, an `out` inside a store, a full
            disk, too little memory.
        KeyboardInterrupt: after Ctrl-C; the state is saved.
    """
    place, progress = place or Place(), progress or Progress()
    check_out(out)
    check_device(place.device)
    manifest = setup.folder.read_manifest()
    for network in networks:
        setup.check(network, manifest)
    engine, folder = open_engine(place.engine), networks_folder(out, manifest)
    groups = make_groups(networks, engine.workers) if setup.cached else [alone_in_group(n) for n in networks]
    names = [network.name for network in networks]
    finished = finished_results(out, manifest.identity, names, run)
    if len(finished) < len(names) or any((folder / group.checkpoint).exists() for group in groups):
        with training_alone(folder):
            worker = functools.partial(group_worker, setup, run, out, place, progress)
            list(engine.map(worker, groups))
        finished = finished_results(out, manifest.identity, names, run)
    return [finished[name] for name in names]


def alone_in_group(network: NetworkConfig) -> Group:
    """Return the work unit of a network that trains by itself."""
    return Group([network], f"checkpoint-{network.name}.safetensors")


def make_groups(networks: Sequence[NetworkConfig], workers: int) -> list[Group]:
    """Divide networks into as many groups as there are workers, by their order, so that a later call does the same."""
    count = max(1, min(workers, len(networks)))
    size = -(-len(networks) // count)
    chunks = [list(networks[start : start + size]) for start in range(0, len(networks), size or 1)]
    names = ["checkpoint.safetensors", *(f"checkpoint-{number}.safetensors" for number in range(1, len(chunks)))]
    return [Group(chunk, name) for chunk, name in zip(chunks, names, strict=False)]


@contextlib.contextmanager
def group_worker(
    setup: Setup, run: RunConfig, out: Path, place: Place, progress: Progress
) -> Iterator[Callable[[Group], None]]:
    """Give the function that trains a group."""
    yield lambda group: train_group(setup, group, run, out, place, progress)


def train_group(setup: Setup, group: Group, run: RunConfig, out: Path, place: Place, progress: Progress) -> None:
    """Train the networks of a group that have no result yet; append their results. Raises UserError."""
    manifest = setup.folder.read_manifest()
    path = networks_folder(out, manifest) / group.checkpoint
    finished = {result.network for result in read_results(out, manifest.identity)}
    discard_finished(path, finished)
    networks = [network for network in group.networks if network.name not in finished]
    if not networks:
        return
    remedy = (
        f"lower batch_size (it is {run.batch_size}), memory (it is {place.memory:g} GB), the width of the networks, or "
        "train fewer networks at once"
    )
    with (
        meter_stage("train", place.device, place.p0) as meter,
        enough_memory(f"{remedy}. The last checkpoint is kept, for the same networks and the same batch_size"),
    ):
        prepared = setup.prepare(networks, run, place)
        progress.begin(manifest.task.name, len(networks), prepared.where)
        checkpoint = Checkpoint(path, manifest.identity, run, prepared.learners, meter, finished)
        stacked = is_stacked(place.stack, place.device)
        tests = train_together(prepared.learners, prepared.splits, checkpoint, run, progress, stacked)
    readings = meter.read().to_json()
    extraction = sessions_json(setup.folder.files) if setup.cached else None
    results = []
    for learner, test in zip(prepared.learners, tests, strict=True):
        result = make_result(learner, manifest, test, setup.folder.path, out, readings, extraction)
        if learner.best:
            setup.save(learner, result)
        results.append(result)
    append_results(out, results)
    checkpoint.remove()


def make_result(
    learner: Learner,
    manifest: Manifest,
    test: Evaluation | None,
    store: str,
    out: Path,
    readings: dict[str, Any],
    extraction: dict[str, Any] | None,
) -> Result:
    """Return the result of a network whose training has ended."""
    config, count = learner.config, sum(weight.numel() for weight in learner.parameters.values())
    return Result(
        task=manifest.task.name,
        metric=manifest.task.metric,
        backbone=manifest.backbone.name,
        kind=config.kind,
        network=config.name,
        label=config.label,
        configuration=config.configuration,
        seed=config.seed,
        validation=learner.history[learner.best_epoch].validation if learner.best else None,
        test=None if test is None else test.metric,
        test_details={} if test is None else test.details,
        best_epoch=learner.best_epoch + 1,
        epochs=len(learner.history),
        stop=learner.stop or StopReason.all_epochs,
        stop_detail=learner.stop_detail,
        parameters=count,
        parameters_percent=round(100 * count / manifest.backbone.parameters, 4),
        learning_rate=config.learning_rate,
        config=learner.settings.values(),
        head=config.head.values(),
        run=learner.run.values(),
        loss_unit=learner.model.head.loss_unit,
        history=tuple(learner.history),
        readings=readings,
        extraction=extraction,
        examples={name: split.examples for name, split in manifest.splits.items()},
        folder=str(networks_folder(out, manifest) / config.name),
        store=store,
        identity=manifest.identity,
    )


def check_diverged(setup: Setup, results: Sequence[Result]) -> None:
    """Raise UserError, which names the likely cause, if every network's loss became infinite or NaN."""
    if results and all(result.stop is StopReason.diverged and result.validation is None for result in results):
        first = results[0]
        raise UserError(
            f"all {len(results)} networks on {first.task} diverged: of {first.network}, {first.stop_detail}. "
            f"{setup.divergence()}. Results without a metric are in {Path(first.folder).parent.parent}"
        )


def networks_folder(out: Path, manifest: Manifest) -> Path:
    """Return the folder of a store's networks. Stores of one task with other activations have others."""
    return out / f"{manifest.task.name}-{manifest.identity[:8]}"


def check_out(out: Path) -> None:
    """Raise UserError if `out` is in a store."""
    for folder in (out.resolve(), *out.resolve().parents):
        if (folder / StoreFolder.ARRAYS).exists():
            raise UserError(f"out is {out}, which is in the store {folder}: choose a folder outside of stores")


@contextlib.contextmanager
def training_alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of networks. Raises UserError if another run holds it, or if it cannot be written."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    remedy = "wait until it ends, then run the same command again; or choose another folder for the results (out)"
    with alone(folder, folder / "training.lock", "another run is training in", remedy):
        yield
