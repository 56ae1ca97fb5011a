"""`read_cache.evaluate` and `read_cache.ensemble`: trained networks, measured, or saved as one network."""

from collections.abc import Iterable, Sequence
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor

from read_cache.api.table import RecordsTable
from read_cache.config import EvaluateConfig
from read_cache.errors import UserError
from read_cache.networks.ensemble import Ensemble, EnsembleConfig, Member
from read_cache.networks.saved import (
    CALIBRATION,
    CONFIG,
    HEAD,
    NETWORK,
    WEIGHTS,
    TrainedNetwork,
    find_networks,
    load_network,
    save_network,
)
from read_cache.scoring.evaluator import baselines as all_baselines
from read_cache.scoring.evaluator import joint_metric
from read_cache.settings import read_settings
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import evaluate_saved

Paths = str | Path | Iterable[str | Path]
JOINT = "validation_and_test"
"""Name of both splits together. Their metric varies less, but the best epoch was chosen on validation."""
SHARED = ("backbone", "activations_digest", "task_digest", "label_ids", "max_source_length", "format", "compute_dtype")
"""Fields of a record that must be equal in all members."""


def evaluate(
    store: str | Path | StoreReader,
    networks: Paths = (),
    *,
    split: str | None = None,
    baselines: bool = False,
    **settings: Any,
) -> RecordsTable:
    """Return a table of each network's kind, metric and its parts (times 100), and loss on a split of a store.

    Args:
        store: the store, or its path.
        networks: folders of networks, folders of such folders, or names on the hub, OWNER/NAME.
        split: `validation`, `test`, or `validation_and_test` for the metric on the rows of both; by default test, or
            validation without a test split.
        baselines: add the majority class and the untrained backbone, on one split.
        settings: fields of `read_cache.config.EvaluateConfig`.

    Raises:
        UserError: networks of another backbone or task, a damaged store or network.
    """
    (config,) = read_settings(settings, EvaluateConfig)
    folders = find_networks(as_paths(networks))
    if not folders and not baselines:
        raise UserError("nothing to evaluate: give networks, or ask for baselines")
    reader = store if isinstance(store, StoreReader) else StoreReader(store)
    name = split or ("test" if "test" in reader.manifest.splits else "validation")
    names = ["validation", "test"] if name == JOINT else [name]
    if baselines and name == JOINT:
        raise UserError(f"split is {JOINT}, and baselines are measured on one split: give validation or test")
    for one in names:
        reader.split(one)
    rows: list[dict[str, Any]] = []
    for (kind, network), evaluated in evaluate_saved(reader, folders, names, config).items():
        if name == JOINT:
            scores = {"metric": joint_metric(reader.manifest.task.metric, evaluated)}
        else:
            (result,) = evaluated
            parts = result.details if len(result.details) > 1 else {}
            scores = {"metric": result.metric, **parts, "loss": result.loss}
        rows.append({"kind": kind, "network": network, **scores})
    if baselines:
        rows += [{"kind": "-", "network": who, "metric": by[name]} for who, by in all_baselines(reader, [name]).items()]
    return RecordsTable({"task": reader.manifest.task.name, "split": name} | row for row in rows)


def as_paths(paths: Paths) -> list[Path]:
    """Return one path or several as a list. Raises UserError for anything else."""
    try:
        return [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    except TypeError as error:
        raise UserError(f"networks: {error}; expected folders or names, such as results.best.folder") from error


def ensemble(networks: Paths, out: str | Path, *, top: int | None = None) -> list[str]:
    """Save trained networks as one network that averages their probabilities, or their scores for a regression.

    `evaluate`, `predict` and `attach` take its folder like that of any network.

    Args:
        networks: folders of networks, folders of such folders, or names on the hub, OWNER/NAME.
        out: the folder to write.
        top: take only this many networks, the best by validation metric; by default all.

    Returns:
        The names of its members.

    Raises:
        UserError: networks of different stores or tasks, of an open target, or that correct different stacks; an `out`
            that holds something other than an ensemble.
    """
    trained = [load_network(folder) for folder in find_networks(as_paths(networks))]
    if top is not None:
        if not 1 <= top <= len(trained):
            raise UserError(f"top is {top}, expected 1 to {len(trained)}, the number of networks")
        trained = sorted(trained, key=validation_score, reverse=True)[:top]
    _check(trained)
    _check_out(Path(out))
    _write(trained, Path(out))
    return [one.record.name for one in trained]


def validation_score(trained: TrainedNetwork) -> tuple[float, float]:
    """Return the validation metric and the negative loss, as `Results.best` compares networks."""
    metric, loss = (trained.record.scores.get(name) for name in ("validation", "validation_loss"))
    return -inf if metric is None else metric, -inf if loss is None else -loss


def _check(trained: Sequence[TrainedNetwork]) -> None:
    """Raise UserError for networks whose predictions cannot be averaged."""
    first = trained[0]
    for one in trained:
        record = one.record
        unlike = [name for name in SHARED if getattr(record, name) != getattr(first.record, name)]
        if one.network.readout != first.network.readout:
            unlike.append("readout stack")
        if record.task.scores and bool(one.head_weights) != bool(first.head_weights):
            unlike.append("kind of head")
        if unlike:
            raise UserError(
                f"networks {first.record.name} and {record.name} differ in {', '.join(unlike)}: give networks that "
                "were trained on one store and correct the states of one stack"
            )
        if record.kind == Ensemble.kind:
            raise UserError(f"{record.name} is an ensemble already: give its members")
    if not first.record.task.labels:
        raise UserError(
            f"task {first.record.task.name} has an open target: only networks with a closed label set can be averaged"
        )


def _check_out(out: Path) -> None:
    """Raise UserError if a folder holds something other than an earlier ensemble, complete or not."""
    stems = {path.stem for path in out.iterdir()} if out.is_dir() else set()
    trained = (out / CONFIG).exists() and load_network(out).record.kind != Ensemble.kind
    if trained or not stems <= {Path(name).stem for name in (CONFIG, WEIGHTS, CALIBRATION)}:
        raise UserError(f"out is {out}, which holds files that are not an ensemble's: choose another folder")


def _write(trained: Sequence[TrainedNetwork], out: Path) -> None:
    records = [one.record for one in trained]
    members = tuple(Member(kind=record.kind, config=record.config, head=record.head) for record in records)
    config = EnsembleConfig(members=members)  # of all layers: those of a member are not those of every stack
    weights: dict[str, Tensor] = {}
    for index, one in enumerate(trained):
        for prefix, tensors in ((NETWORK, one.network.state_dict()), (HEAD, one.head_weights)):
            weights |= {f"{prefix}members.{index}.{name}": value for name, value in tensors.items()}
    parameters = sum(record.scores.get("parameters", 0) for record in records)
    percent = records[0].backbone.percent(parameters)
    record = records[0].replaced(
        name=out.name,
        kind=Ensemble.kind,
        config=config.values(),
        scores={"parameters": parameters, "parameters_percent": percent},
    )
    save_network(out, record, weights, trained[0].calibration)
