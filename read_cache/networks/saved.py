"""A trained network on disk: model.safetensors, config.json (what it belongs to), README.md (its model card)."""

import contextlib
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from read_cache.errors import UserError
from read_cache.lock_file import HeldError, locked, this_process
from read_cache.networks.card import model_card
from read_cache.networks.config import BackboneShape, ReadConfig
from read_cache.networks.read import Read
from read_cache.networks.record import NetworkRecord
from read_cache.store.quantization import Calibration
from read_cache.store.schema import Form, with_tuples
from read_cache.tasks import Task


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What a network's folder holds."""

    network: Read
    record: NetworkRecord
    calibration: Calibration | None
    """Of the store that trained it; None where its form needs nothing."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """UserError where what a run leaves cannot be written: a full disk, a folder that is read-only or gone."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        mend = "make room"
        if isinstance(error, FileNotFoundError):
            mend = f"make the folder {path.parent}"
        elif isinstance(error, PermissionError):
            mend = "see who may write there"
        raise UserError(
            f"{path} cannot be written: {why}. What was complete is kept: {mend} and run the same command again"
        ) from error


@contextlib.contextmanager
def alone(place: Path, lock: Path, busy: str, mend: str) -> Iterator[None]:
    """Hold the lock of a place. UserError where another process does (`busy`, `mend`), or where none can be written."""
    with contextlib.ExitStack() as stack:
        with writing(place):
            try:
                stack.enter_context(locked(lock, this_process()))
            except HeldError as held:
                raise UserError(f"{busy} {place} ({held}): {mend}") from held
        yield


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under; it takes the place of `path` at once, when all of it is on the disk.

    Where it cannot be written nothing of it is left, `path` is as it was, and UserError says why.
    """
    unfinished = path.with_suffix(".unfinished")
    try:
        with writing(path):
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_network(
    folder: Path, record: NetworkRecord, weights: dict[str, Tensor], calibration: Calibration | None = None
) -> None:
    """Write a network's folder; config.json is last, so its existence means the folder is complete."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)  # of a network of this name whose result was removed
        if calibration is not None:
            save_arrays(calibration.arrays(), folder / "calibration.safetensors")
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, folder / "model.safetensors")
        (folder / "README.md").write_text(model_card(record), encoding="utf-8")
        with replacing(folder / "config.json") as unfinished:
            unfinished.write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n", encoding="utf-8")


def load_network(folder: str | Path) -> TrainedNetwork:
    """A network, in evaluation mode. Raises UserError where the folder holds none or is damaged."""
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise UserError(f"no network at {folder}: expected a folder that read-cache train wrote, with config.json")
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "model_type" in values:
            raise UserError(f"{folder} holds no network but a model: that goes to --model")
        record = _parse_record(values)
        network = Read(record.read, record.shape)
        network.load_state_dict(load_file(folder / "model.safetensors"))
        calibration = None
        if record.form.calibrated:
            calibration = Calibration(**load_arrays(folder / "calibration.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the network at {folder} is damaged: {error}. Train it again") from error
    return TrainedNetwork(network.eval(), record, calibration)


def _parse_record(values: dict[str, Any]) -> NetworkRecord:
    task = values.pop("task")
    return NetworkRecord(
        read=ReadConfig(**values.pop("read")),
        shape=BackboneShape(**with_tuples(values.pop("shape"))),
        form=Form(**with_tuples(values.pop("form"))),
        task=Task(**{**task, "labels": tuple(task["labels"])}),
        label_ids=tuple(tuple(ids) for ids in values.pop("label_ids")),
        **values,
    )


def find_networks(paths: Iterable[Path]) -> list[Path]:
    """Network folders: each path itself, or every network below it. Raises UserError where there is none."""
    found = []
    for path in paths:
        below = [path] if (path / "config.json").exists() else sorted(p.parent for p in path.glob("**/config.json"))
        if not below:
            raise UserError(f"no network at {path}: expected a folder that read-cache train wrote")
        found += below
    return found


def told_apart(names: Sequence[str], folders: Sequence[str | Path]) -> list[str]:
    """What tells each network from the others: its name, with the store's folder before it, or its whole path."""
    with_store = [f"{Path(folder).parent.name}/{name}" for name, folder in zip(names, folders, strict=True)]
    levels = [(shown, Counter(shown)) for shown in (names, with_store)]
    return [
        next((shown[place] for shown, times in levels if times[shown[place]] == 1), str(folder))
        for place, folder in enumerate(folders)
    ]


def check_backbone(record: NetworkRecord, digest: str, where: str) -> None:
    """Raises UserError unless the network was trained on the activations of the backbone with this digest."""
    if record.backbone_digest != digest:
        raise UserError(
            f"network {record.name} was trained for backbone {record.backbone} ({record.backbone_digest[:12]}…), "
            f"but {where} is of another ({digest[:12]}…): its states would mean nothing to it"
        )
