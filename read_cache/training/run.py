"""A run: networks that train together, from a store's folder to saved networks and results.jsonl.

It is the same for side networks and live methods: a `Setup` makes the learners and saves them.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from read_cache.config import Place, RunConfig
from read_cache.device import check_device, enough_memory
from read_cache.engines import open_engine
from read_cache.engines.base import Worker
from read_cache.errors import UserError
from read_cache.meters.meter import meter_stage
from read_cache.meters.readings import read_sessions
from read_cache.networks.saved import writing
from read_cache.scoring.evaluator import Batches, Evaluation, joint_metric
from read_cache.store.folder import StoreFolder
from read_cache.store.lock import HeldError, locked
from read_cache.store.manifest import Manifest
from read_cache.training.checkpoint import Checkpoint, discard_finished
from read_cache.training.learner import Learner
from read_cache.training.loop import train_together
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Sweep
from read_cache.training.results import Result, StopReason, append_results, finished_results, read_results
from read_cache.watch import Watch


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Learners before their first step, and what they train on."""

    learners: list[Learner]
    splits: Mapping[str, Batches]
    """By name: train, validation, and test if there is one."""
    where: str = ""
    """Text that a message shows: where the training split is held, such as in memory."""


class Setup(Protocol):
    """Makes and saves the networks of a run. Engines with processes of their own need it to be picklable."""

    @property
    def folder(self) -> StoreFolder:
        """The sealed store of the rows."""

    @property
    def cached(self) -> bool:
        """True if the networks read the store's activations; otherwise each network is a work unit of its own."""

    def check(self, networks: Sequence[NetworkConfig], manifest: Manifest) -> None:
        """Raise UserError if one of the networks cannot be trained on the store."""

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
    watch: Watch = Watch(),
) -> list[Result]:
    """Train networks on one store, all of a group in one pass over it per epoch.

    Each network is saved in `out`, beside results.jsonl, with the weights of its best validation epoch. Networks that
    have a result there are skipped, and an interrupted run continues from its checkpoint. Returns one result for each
    network, in their order. The names of the networks must differ.

    Raises:
        UserError: for networks that do not fit the store, results with other settings, an `out` inside a store, a full
            disk, too little memory.
        KeyboardInterrupt: after Ctrl-C; the state is saved.
    """
    place = place or Place()
    for parent in (out.resolve(), *out.resolve().parents):
        if (parent / StoreFolder.ARRAYS).exists():
            raise UserError(f"out is {out}, which is in the store {parent}: choose a folder outside of stores")
    check_device(place.device)
    manifest = setup.folder.read_manifest()
    setup.check(networks, manifest)
    engine, folder = open_engine(place), networks_folder(out, manifest)
    groups = make_groups(networks, engine.workers if setup.cached else None)
    check_halving(setup, run, len(groups))
    names = [network.name for network in networks]
    finished = finished_results(out, manifest.identity, names, run)
    if len(finished) < len(names) or any((folder / group.checkpoint).exists() for group in groups):
        with contextlib.ExitStack() as stack:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(locked(folder / "training.lock"))
                except HeldError as held:
                    raise UserError(
                        f"another run is training in {folder} ({held}): wait until it ends, then run the same command "
                        "again; or choose another folder for the results (out)"
                    ) from held
            work = partial(train_group, setup, run, out, place, engine.relay(watch))
            worker: Callable[[], Worker[Group, None]] = partial(contextlib.nullcontext, work)  # type: ignore[assignment]
            list(engine.map(worker, groups))
        finished = finished_results(out, manifest.identity, names, run)
    else:
        watch.say(f"{manifest.task.name}: every network ({kinds(networks)}) has a result already")
    return [finished[name] for name in names]


def kinds(networks: Sequence[NetworkConfig]) -> str:
    """Return the kinds of some networks, for messages."""
    return ", ".join(dict.fromkeys(network.kind for network in networks))


def check_halving(setup: Setup, run: RunConfig, groups: int = 1) -> None:
    """Raise UserError if halving would compare the networks of one group alone."""
    if run.halving and (groups > 1 or not setup.cached):
        found = f"the networks train in {groups} groups" if setup.cached else "each live method trains by itself"
        mend = "set halving to 0, or workers to 1" if setup.cached else "set halving to 0"
        raise UserError(f"halving is {run.halving} and compares networks that train together, but {found}: {mend}")


def make_groups(networks: Sequence[NetworkConfig], workers: int | None) -> list[Group]:
    """Divide networks into as many groups as there are workers; None: each network is a group.

    The groups depend on the order of the networks, so a later call makes the same ones.
    """
    if workers is None:
        return [Group([network], f"checkpoint-{network.name}.safetensors") for network in networks]
    size = max(1, -(-len(networks) // workers))
    starts = range(0, len(networks), size)
    names = ["checkpoint.safetensors", *(f"checkpoint-{number}.safetensors" for number in range(1, len(starts)))]
    return [Group(list(networks[start : start + size]), name) for start, name in zip(starts, names, strict=False)]


def train_group(setup: Setup, run: RunConfig, out: Path, place: Place, watch: Watch, group: Group) -> None:
    """Train the networks of a group that have no result yet; append their results. Raises UserError."""
    manifest = setup.folder.read_manifest()
    folder = networks_folder(out, manifest)
    path = folder / group.checkpoint
    finished = {result.network for result in read_results(out, manifest.identity)}
    discard_finished(path, finished)
    networks = [network for network in group.networks if network.name not in finished]
    if not networks:
        return
    remedy = (
        f"lower batch_size (it is {run.batch_size}), memory (it is {place.memory:g} GB), the width of the networks, or "
        "train fewer networks at once. The last checkpoint is kept, for the same networks and the same batch_size"
    )

    def report(learner: Learner) -> None:
        watch.event("on_epoch", make_result(learner, manifest, {}, store=setup.folder.path, folder=folder))

    with meter_stage("train", place.device, place.p0) as meter, enough_memory(remedy):
        prepared = setup.prepare(networks, run, place)
        count = f"{len(networks)} network{'s' if len(networks) > 1 else ''} ({kinds(networks)})"
        watch.say(f"{manifest.task.name}: {count}; the training split is {prepared.where}")
        checkpoint = Checkpoint(path, manifest.identity, run, prepared.learners, meter, finished)
        evaluations = train_together(prepared.learners, prepared.splits, checkpoint, run, place, watch, report)
    extraction = read_sessions(setup.folder.files) if setup.cached else None
    facts: dict[str, Any] = {"store": setup.folder.path, "readings": meter.read().values()}
    facts["extraction"] = extraction and extraction.values()
    results = []
    for learner, own in zip(prepared.learners, evaluations, strict=True):
        result = make_result(learner, manifest, own, folder=folder, **facts)
        if learner.best:
            setup.save(learner, result)
        results.append(result)
    append_results(out, results)
    checkpoint.remove()
    for result in results:
        watch.event("on_network_end", result)


def make_result(
    learner: Learner, manifest: Manifest, found: Mapping[str, Evaluation], folder: Path, **facts: Any
) -> Result:
    """Return the result of a network so far: its evaluations by split, and further fields.

    `folder` is that of the store's networks.
    """
    config, test = learner.config, found.get("test")
    count = sum(weight.numel() for weight in learner.parameters.values())
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
        validation_and_test=None if test is None else joint_metric(manifest.task.metric, found.values()),
        best_epoch=learner.best_epoch + 1,
        epochs=len(learner.history),
        stop=learner.stop,
        stop_detail=learner.stop_detail,
        parameters=count,
        parameters_percent=manifest.backbone.percent(count),
        learning_rate=config.learning_rate,
        config=learner.settings.values(),
        head=config.head.values(),
        run=learner.run.values(),
        loss_unit=learner.model.head.loss_unit,
        history=tuple(learner.history),
        examples={name: split.examples for name, split in manifest.splits.items()},
        folder=str(folder / config.name),
        identity=manifest.identity,
        **facts,
    )


def networks_folder(out: Path, manifest: Manifest) -> Path:
    """Return the folder of a store's networks. Stores of one task with other activations have others."""
    return out / f"{manifest.task.name}-{manifest.identity[:8]}"


def run_sweep(
    setup: Setup, sweep: Sweep, out: Path, place: Place | None = None, watch: Watch = Watch()
) -> tuple[list[Result], list[Result]]:
    """Train the networks of a sweep on one store, then the best of them with the final seeds.

    Returns the results of all networks, and those of the best one with the final seeds, if there are any. Raises
    UserError as `train_networks`, and if every network diverged.
    """

    def train(networks: list[NetworkConfig], run: RunConfig) -> list[Result]:
        return train_networks(setup, networks, run, out, place, watch)

    networks = sweep.networks()
    trained = dict(zip(networks, train(networks, sweep.run), strict=True))
    results = list(trained.values())
    if results and all(result.stop is StopReason.diverged and result.validation is None for result in results):
        first = results[0]
        raise UserError(
            f"all {len(results)} networks on {first.task} diverged: of {first.network}, {first.stop_detail}. "
            f"{setup.divergence()}. Results without a metric are in {Path(first.folder).parent.parent}"
        )
    final = train_best(sweep, trained, train)
    return results + [result for result in final if result not in results], final


def train_best(
    sweep: Sweep,
    trained: Mapping[NetworkConfig, Result],
    train: Callable[[list[NetworkConfig], RunConfig], list[Result]],
) -> list[Result]:
    """Return the results of the best network by validation, one for each of the final seeds.

    `train` trains the other seeds, without halving. Halving never stops the best network.
    """
    scores = {network: result.score for network, result in trained.items() if result.validation is not None}
    seeds = list(dict.fromkeys(sweep.search.final_seeds))
    if not scores or not seeds:
        return []
    best = max(scores, key=lambda network: scores[network])
    others = [best.replaced(seed=seed) for seed in seeds if seed != best.seed]
    results = train(others, sweep.run.replaced(halving=0)) if others else []
    by_seed = {result.seed: result for result in [trained[best], *results]}
    return [by_seed[seed] for seed in seeds]
