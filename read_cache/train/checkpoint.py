"""The state of a run between two steps, in one safetensors file that is replaced whole."""

import contextlib
import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from read_cache.errors import UserError
from read_cache.meters.meter import Meter
from read_cache.meters.readings import Readings
from read_cache.networks.saved import replacing
from read_cache.train.grid import TrainConfig
from read_cache.train.learner import Learner

SAVE_EVERY = 300.0
"""Seconds between two saves inside an epoch."""


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run is. With the order's seed it says which examples come next."""

    epoch: int = 0
    """Epochs done."""
    batch: int = 0
    """Batches done of the one after them."""


class Checkpoint:
    """Saves and restores learners that train together."""

    def __init__(
        self,
        path: Path,
        store_digest: str,
        run: TrainConfig,
        learners: list[Learner],
        meter: Meter,
        finished: Collection[str] = (),
    ) -> None:
        """`finished` names networks that have their results, which a kill may have left in the file all the same."""
        self.path, self.learners, self.meter, self.finished = path, learners, meter, finished
        self.identity = {"store": store_digest, "run": dataclasses.asdict(run)}
        self._saved = time.monotonic()

    def save(self, position: Position) -> None:
        """Write the state at `position`."""
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        for learner in self.learners:
            facts[learner.config.name] = learner.facts()
            tensors |= {f"{learner.config.name}/{name}": value for name, value in learner.tensors().items()}
        metadata = self.identity | {"position": dataclasses.asdict(position), "learners": facts}
        metadata["meters"] = self.meter.read().to_json()
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        with replacing(self.path) as unfinished:
            save_file(contiguous, unfinished, {"json": json.dumps(metadata)})
        self._saved = time.monotonic()

    def save_if_due(self, position: Position) -> None:
        """Write the state if the last save is `SAVE_EVERY` seconds old."""
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save(position)

    def load(self) -> Position:
        """Restore the learners; returns the position, the start where there is no checkpoint.

        Raises UserError where the checkpoint belongs to another store, grid or settings.
        """
        if not self.path.exists():
            return Position()
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = json.loads(file.metadata()["json"])
                unfinished = set(metadata["learners"]) - set(self.finished)
                found = {name: metadata[name] for name in self.identity}, unfinished
                if found != (self.identity, {learner.config.name for learner in self.learners}):
                    raise UserError(
                        f"{self.path} is the checkpoint of a run with another store, other settings or another grid: "
                        "give the same options to go on with it, another --out, or delete the checkpoint"
                    )
                for learner in self.learners:
                    prefix = f"{learner.config.name}/"
                    names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 (no mapping)
                    tensors = {key.removeprefix(prefix): file.get_tensor(key) for key in names}
                    learner.restore(tensors, metadata["learners"][learner.config.name])
                self.meter.go_on_from(Readings.from_json(metadata["meters"]))
                return Position(**metadata["position"])
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{self.path} is damaged ({error}): delete it to train again from the start") from error

    def remove(self) -> None:
        """Delete the file: the run is done."""
        self.path.unlink(missing_ok=True)


def discard_finished(path: Path, finished: Collection[str]) -> None:
    """Remove the checkpoint that a run left if it was killed after its last network had its result.

    One that is damaged stays, for `load` to tell of.
    """
    with contextlib.suppress(FileNotFoundError, SafetensorError, KeyError, ValueError, TypeError):
        with safe_open(path, framework="pt") as file:
            learners = json.loads(file.metadata()["json"])["learners"]
        if set(learners) <= set(finished):
            path.unlink()


@contextlib.contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is remembered, not raised, so that a run can stop where its state is whole; a second one is raised."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []

    def remember(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        asked.append(number)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt
