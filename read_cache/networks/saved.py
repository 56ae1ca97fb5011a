"""A trained network on disk: model.safetensors, and config.json, the record of what it belongs to."""

import contextlib
import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from read_cache.errors import UserError
from read_cache.networks.base import NetworkShape, SideNetwork, find_kind
from read_cache.networks.ensemble import Ensemble
from read_cache.settings import Record, parse
from read_cache.store.schema import Calibration, ComputeDtype, Format
from read_cache.store.spec import IMPORTED, BackboneSpec
from read_cache.tasks import Task
from read_cache.trie import LabelTrie

NETWORK_VERSION = 1
"""Number of the format of a network's or live method's folder, in its record."""
FROZEN = "frozen_"
"""Begins the kind of a side network that is trained beside the live backbone."""
CONFIG, WEIGHTS, CALIBRATION = "config.json", "model.safetensors", "calibration.safetensors"
"""Files of a network's folder; the last only where the store's format has a calibration."""
METHOD = "method.json"
"""File that marks the folder of a live method."""
ON_HUB = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>.+))?")
"""OWNER/NAME or OWNER/NAME@REVISION; a folder of that name comes first."""
NETWORK, HEAD = "network.", "head."
"""Prefixes of the weights in model.safetensors."""


class NetworkRecord(Record):
    """The backbone, task, format and settings of a saved network."""

    version: int = NETWORK_VERSION
    name: str
    kind: str
    """A name in `NETWORKS`."""
    config: dict[str, Any]
    """Settings of that kind."""
    head: dict[str, Any]
    """Settings of the head."""
    learning_rate: float
    seed: int
    backbone: BackboneSpec
    """Its digest names the only backbone whose activations the network can read."""
    activations_digest: str
    """Of the store that trained it."""
    task_digest: str
    tokenizer_digest: str = ""
    """Of the tokenizer that made the store's tokens."""
    task: Task
    label_ids: tuple[tuple[int, ...], ...]
    max_source_length: int
    format: Format
    """Of the store that trained it; a live backbone's states are converted to it."""
    compute_dtype: ComputeDtype
    run: dict[str, Any]
    """Settings of the run."""
    backbone_dropout: float | None = None
    """Dropout probability in the live backbone that it was trained beside; None: it was trained from a store."""
    scores: dict[str, Any]
    """validation, validation_loss, test, best_epoch, epochs, parameters, parameters_percent."""

    @cached_property
    def trie(self) -> LabelTrie | None:
        """The label trie; None for an open target or a backbone without an LM head."""
        return LabelTrie(self.label_ids) if self.label_ids else None


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A network read from its folder: the network, its head's weights, its record and the calibration."""

    network: SideNetwork
    """Or a live method, which has what `Attached` uses of a network."""
    head_weights: Mapping[str, Tensor]
    """Weights of a trainable head; empty where the frozen LM head is used."""
    record: NetworkRecord
    calibration: Calibration | None
    """Of the store that trained it; None where its format needs none."""

    def __repr__(self) -> str:
        """Name the network, its task, its backbone and its number of parameters."""
        count = sum(weight.numel() for weight in (*self.network.parameters(), *self.head_weights.values()))
        record = self.record
        return (
            f"TrainedNetwork({record.name!r} on {record.task.name!r} for {record.backbone.name!r}, {count:,} weights)"
        )

    def push_to_hub(self, repo: str, *, private: bool | None = None, license: str | None = None) -> str:
        """Upload the network with a card to the Hugging Face hub, as one commit, and return the repository's URL.

        `load_network`, `attach`, `predict`, `evaluate` and `ensemble` take its name.

        Args:
            repo: OWNER/NAME; it is made if there is none. HF_TOKEN must be a token that may write there.
            private: a new repository is private; by default as its owner's settings have it.
            license: identifier of the weights' license for the card, such as apache-2.0.

        Raises:
            UserError: the hub cannot be reached, or refuses the name or the token.
        """
        from read_cache.networks.published import push_network

        return push_network(self, repo, private, license)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise UserError if a run's output cannot be written: a full disk, a folder that is read-only or missing."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        mend = "make room, or choose another folder,"
        if isinstance(error, FileNotFoundError):
            mend = f"make the folder {path.parent}"
        raise UserError(
            f"{path} cannot be written: {why}. What was complete is kept: {mend} and run the same command again"
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file that replaces `path` at the end, atomically. Raises UserError.

    After an error the temporary file is removed and `path` is unchanged.
    """
    unfinished = path.with_suffix(".unfinished")
    try:
        with writing(path):
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, and its folder if there is none. Raises UserError if that is impossible."""
    with replacing(path) as unfinished:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")


def write_record(path: Path, record: NetworkRecord) -> None:
    """Write the record of a network or live method. Raises UserError."""
    write_text(path, json.dumps(record.values(), indent=2) + "\n")


def save_network(
    folder: Path, record: NetworkRecord, weights: Mapping[str, Tensor], calibration: Calibration | None = None
) -> None:
    """Write a network's folder; config.json is last, so its existence means the folder is complete.

    The names of `weights` begin with `network.` or `head.`.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)  # of a network of this name whose result was removed
        if calibration is not None:
            save_arrays(calibration.arrays(), folder / CALIBRATION)
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, folder / WEIGHTS)
        write_record(folder / CONFIG, record)


def find_folder(network: str | Path) -> Path:
    """Return a path, or the folder of a network that is on the hub. Raises UserError.

    A name on the hub is OWNER/NAME, or OWNER/NAME@REVISION, and no folder.
    """
    match = ON_HUB.fullmatch(str(network))
    try:
        if Path(network).exists() or match is None:
            return Path(network)
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise UserError(f"no network at {network}: {error.strerror}. Give a network's folder or OWNER/NAME") from error
    from read_cache.networks.published import download_network

    return download_network(match["name"], match["revision"])


def load_network(folder: str | Path) -> TrainedNetwork:
    """Return a network in evaluation mode, from its folder or by its name on the hub. Raises UserError.

    A name on the hub is OWNER/NAME or OWNER/NAME@REVISION.
    """
    folder = find_folder(folder)
    if not (folder / CONFIG).exists():
        raise UserError(f"no network at {folder}: expected a folder that read-cache train wrote, with config.json")
    damaged = f"the network at {folder} is damaged, train it again"
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if "model_type" in values:
            raise UserError(f"{folder} holds a model, not a network: give it as the model")
        check_version(values, folder)
        record = parse(NetworkRecord, values, f"{damaged}: config.json")
        kind = Ensemble if record.kind == Ensemble.kind else find_kind(record.kind)
        config = parse(kind.Config, record.config, f"{damaged}: config.json, config")
        network = kind(config, NetworkShape.of(record.backbone, record.format, config.layers))
        weights = load_file(folder / WEIGHTS)
        for name, value in weights.items():
            if not value.isfinite().all():
                raise UserError(f"the network at {folder} has weights that are not finite ({name}): train it again")
        network.load_state_dict(_below(weights, NETWORK))
        calibration = None
        if record.format.calibrated:
            calibration = Calibration(**load_arrays(folder / CALIBRATION))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{damaged}: {reason}") from error
    return TrainedNetwork(network.eval(), _below(weights, HEAD), record, calibration)


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def find_networks(paths: Iterable[Path], live: bool = False) -> list[Path]:
    """Return the network folders: each path itself, or every network below it. Raises UserError if there is none.

    A path may be a network's name on the hub. Folders of live methods are skipped unless `live` is True.
    """
    folders = []
    for path in map(find_folder, paths):
        if (path / METHOD).exists() and not live:
            raise UserError(f"{path} holds a live method, not a side network: only predict and serve take it")
        files = [path / name for name in (CONFIG, METHOD) if (path / name).exists()]
        found = {file.parent for file in files or [*path.glob("**/config.json"), *path.glob(f"**/{METHOD}")]}
        below = [folder for folder in sorted(found) if live or not (folder / METHOD).exists()]
        if not below:
            raise UserError(f"no network at {path}: expected a folder that read-cache train wrote")
        folders += below
    return list(dict.fromkeys(folders))


def told_apart(names: Sequence[str], folders: Sequence[str | Path]) -> list[str]:
    """Return names that differ: each network's name, with the store's folder in front, or its whole path."""
    with_store = [f"{Path(folder).parent.name}/{name}" for name, folder in zip(names, folders, strict=True)]
    levels = [(shown, Counter(shown)) for shown in (names, with_store)]
    return [
        next((shown[index] for shown, counts in levels if counts[shown[index]] == 1), str(folder))
        for index, folder in enumerate(folders)
    ]


def check_version(values: Any, folder: Path) -> None:
    """Raise UserError if a record was written by a later version of read-cache, in another format."""
    version = values.get("version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > NETWORK_VERSION:
        raise UserError(f"{folder} has format version {version}, this read-cache reads {NETWORK_VERSION}: update it")


def check_backbone(record: NetworkRecord, digest: str, where: str) -> None:
    """Raise UserError unless the network was trained for the backbone with this digest."""
    if record.backbone.digest != digest:
        if record.backbone.family == IMPORTED:
            raise UserError(
                f"network {record.name} was trained on imported states of {record.backbone.name}, which "
                f"{where} does not have: import the states of the new rows under the same name, and evaluate it on them"
            )
        raise UserError(
            f"network {record.name} was trained for backbone {record.backbone.name} ({record.backbone.digest[:12]}…), "
            f"but {where} is of another ({digest[:12]}…): give it the backbone it was trained for"
        )
