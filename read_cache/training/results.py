"""results.jsonl in a run's folder: one line a network."""

import fcntl
import json
import math
from collections.abc import Collection, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field

from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.networks.saved import writing
from read_cache.settings import Record

FILE = "results.jsonl"


class StopReason(StrEnum):
    """Why a network's training ended: `patience` without improvement, the worse half, a loss that is not finite."""

    all_epochs = "all_epochs"
    patience = "patience"
    halving = "halving"
    diverged = "diverged"


class Epoch(Record):
    """Losses and validation metric of one epoch."""

    train_loss: float
    """Mean training loss, in the result's `loss_unit`."""
    validation_loss: float
    """Mean validation loss, in the same unit."""
    validation: float
    """Validation metric, times 100."""

    @property
    def score(self) -> tuple[float, float]:
        """Validation metric, then negative validation loss: epochs and networks are compared by it."""
        return self.validation, -self.validation_loss


class Result(Record):
    """One trained network."""

    task: str
    metric: str
    backbone: str
    kind: str
    """Kind of the side network or live method."""
    network: str
    """Name of the network, and of its folder."""
    label: str = ""
    """The name without its seed."""
    configuration: str
    """Identifier of all settings but the seed: networks that differ only in their seed have the same one."""
    seed: int
    validation: float | None = None
    """Validation metric of the best epoch, times 100; None if no epoch ended."""
    test: float | None = None
    """Test metric with the weights of the best epoch; None without a test split."""
    test_details: dict[str, float] = Field(default_factory=dict)
    """Each part of the test metric."""
    validation_and_test: float | None = None
    """Metric with these weights on both splits as one: less noise than on either, but the epoch was chosen on one."""
    best_epoch: int = 0
    """From 1; 0 if no epoch ended."""
    epochs: int = 0
    """Epochs trained."""
    stop: StopReason | None
    """Why training ended; None while it goes on."""
    stop_detail: str = ""
    """The reason as a sentence, with numbers."""
    parameters: int
    """Trained parameters, those of the head included."""
    parameters_percent: float
    """Trained parameters in percent of the backbone's; 0 where those are unknown."""
    learning_rate: float
    config: dict[str, Any]
    """Settings of the network, as the store completed them."""
    head: dict[str, Any] = Field(default_factory=dict)
    run: dict[str, Any]
    """Settings of the run (RunConfig)."""
    loss_unit: str = "nats an example"
    """Unit of all losses."""
    history: tuple[Epoch, ...] = ()
    readings: dict[str, Any] = Field(default_factory=dict)
    """Time, memory and energy of training, of all networks that trained together."""
    extraction: dict[str, Any] | None = None
    """Time, memory and energy of the extraction; None if the store has no readings."""
    examples: dict[str, int] = Field(default_factory=dict)
    """Number of examples by split."""
    folder: str
    """Folder of the trained network. It does not exist if no epoch ended."""
    store: str
    identity: str
    """Identity of the store's content."""

    @property
    def score(self) -> tuple[float, float]:
        """Score of the best epoch: the larger, the better. That of a network that ended no epoch is the smallest."""
        return self.history[self.best_epoch - 1].score if self.best_epoch else (-math.inf, -math.inf)


def read_results(out: Path, identity: str = "") -> list[Result]:
    """Return the results in a run's folder, of all stores or of one. Raises UserError for a damaged line.

    A last line that was cut short by a kill is ignored.
    """
    path = out / FILE
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError, UserError) as error:
            raise UserError(
                f"{path}, line {number} is not a result of this version ({error}): delete that line to train its "
                "network again, or choose another folder for the results (out)"
            ) from error
        if identity in ("", result.identity):
            results.append(result)
    return results


def best_result(results: Sequence[Result]) -> Result:
    """Return the result with the best validation metric. Raises UserError if no network finished an epoch."""
    trained = [result for result in results if result.validation is not None]
    if not trained:
        raise UserError("no network finished an epoch: lower learning_rate")
    return max(trained, key=lambda result: result.score)


def append_results(out: Path, results: Sequence[Result]) -> None:
    """Append results, in place of a last line that was cut short. Runs on other stores may append at the same time."""
    path = out / FILE
    with writing(path), path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write("".join(json.dumps(result.values()) + "\n" for result in results).encode())


def finished_results(out: Path, identity: str, names: Collection[str], run: RunConfig) -> dict[str, Result]:
    """Return the results of the networks of these names that were trained on this store, by name.

    Raises UserError if one was trained with other settings of the run: its folder would be overwritten.
    """
    settings = run.values()
    finished = {result.network: result for result in read_results(out, identity) if result.network in names}
    for result in finished.values():
        trained_with = RunConfig().values() | result.run  # an older result lacks later settings
        if other := {name: value for name, value in trained_with.items() if value != settings.get(name)}:
            raise UserError(
                f"{out} holds {result.network} on {result.task}, trained with other settings ({other}): choose another "
                "folder for the results (out), or the same settings"
            )
    return finished
