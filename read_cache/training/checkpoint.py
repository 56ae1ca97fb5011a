"""The state of a run between two steps, in one safetensors file that is replaced as a whole."""

import contextlib
import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.meters.meter import Meter
from read_cache.meters.readings import Readings
from read_cache.networks.saved import replacing
from read_cache.settings import parse
from read_cache.training.learner import Learner

SAVE_EVERY = 300.0
"""Seconds between two saves inside an epoch."""
DAMAGE = (SafetensorError, KeyError, ValueError, TypeError, RuntimeError)
"""Errors of reading a damaged file; torch raises RuntimeError for tensors of other shapes."""


@dataclasses.dataclass(frozen=True)
class Position:
    """Complete epochs, and complete batches of the next epoch. They decide which examples come next."""

    epoch: int = 0
    batch: int = 0


class Checkpoint:
    """Saves and restores learners that train together."""

    def __init__(
        self,
        path: Path,
        identity: str,
        run: RunConfig,
        learners: Sequence[Learner],
        meter: Meter,
        finished: Collection[str] = (),
    ) -> None:
        """`identity` is the store's: a checkpoint of another store, run or kind of device is refused.

        The readings of `meter` are saved too, so that they cover all sessions of a run. `finished` are the names of
        networks that have results: a kill may have left them in the file.
        """
        self.path, self.learners, self.meter, self.finished = path, learners, meter, finished
        device = learners[0].generator.device.type  # each kind has random states of its own
        self.identity = {"store": identity, "run": run.values(), "device": device}
        self._saved = time.monotonic()

    def save(self, position: Position) -> None:
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        for learner in self.learners:
            name = learner.config.name
            facts[name] = learner.facts()
            tensors |= {f"{name}/{key}": value.contiguous() for key, value in learner.tensors().items()}
        metadata = self.identity | {"position": dataclasses.asdict(position), "learners": facts}
        metadata["meters"] = self.meter.read().values()
        with replacing(self.path) as unfinished:
            save_file(tensors, unfinished, {"json": json.dumps(metadata)})
        self._saved = time.monotonic()

    def save_if_due(self, position: Position) -> None:
        """Write the state if the last save is `SAVE_EVERY` seconds old."""
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save(position)

    def load(self) -> Position:
        """Restore the learners and return the position: the start if there is no checkpoint.

        Raises UserError if the file is damaged, or belongs to another store, device, networks or settings.
        """
        if not self.path.exists():
            return Position()
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = json.loads(file.metadata()["json"])
                unfinished = set(metadata["learners"]) - set(self.finished)
                saved = {name: metadata.get(name) for name in self.identity}
                if saved != self.identity or unfinished != {learner.config.name for learner in self.learners}:
                    raise UserError(
                        f"{self.path} is the checkpoint of a run with another store, other settings, other networks or "
                        f"another device (this one is {self.identity['device']}): use the same settings and device to "
                        "continue it, choose another folder for the results (out), or delete the checkpoint"
                    )
                for learner in self.learners:
                    prefix = f"{learner.config.name}/"
                    names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 (no mapping)
                    tensors = {key.removeprefix(prefix): file.get_tensor(key) for key in names}
                    learner.restore(tensors, metadata["learners"][learner.config.name])
                self.meter.go_on_from(parse(Readings, metadata["meters"], "readings"))
                return Position(**metadata["position"])
        except DAMAGE as error:
            raise UserError(f"{self.path} is damaged ({error}): delete it to train again from the start") from error

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def discard_finished(path: Path, finished: Collection[str]) -> None:
    """Remove a checkpoint whose networks all have results: the run was killed after it wrote them.

    A damaged file stays, so that `load` reports it.
    """
    with contextlib.suppress(FileNotFoundError, *DAMAGE):
        with safe_open(path, framework="pt") as file:
            learners = json.loads(file.metadata()["json"])["learners"]
        if set(learners) <= set(finished):
            path.unlink()


@contextlib.contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Delay Ctrl-C, so that a run can stop between two steps. A second Ctrl-C is raised at once.

    The value is a function that returns True after Ctrl-C. KeyboardInterrupt is raised at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    interrupted = threading.Event()

    def remember(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield interrupted.is_set
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt
