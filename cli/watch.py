"""Training as people watch it: a bar, and on a terminal the best networks so far."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.table import Table

from read_cache.api.training import TrainWatch
from read_cache.cli.output import progress_bar, say, stderr
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest

if TYPE_CHECKING:
    from read_cache.training.learner import Learner
    from read_cache.training.loop import Progress
    from read_cache.training.scalars import Scalars

SHOWN = 8
"""Networks in the live table."""


def train_watch(out: Path, tensorboard: bool = False) -> TrainWatch:
    """Return what shows a run on stderr, and writes TensorBoard scalars to OUT/tensorboard if asked to."""

    @contextlib.contextmanager
    def progress(folder: StoreFolder, manifest: Manifest) -> "Iterator[Progress]":
        from read_cache.training.loop import Progress
        from read_cache.training.scalars import Scalars

        with contextlib.ExitStack() as stack:
            scalars = stack.enter_context(Scalars(out / "tensorboard")) if tensorboard else None
            watch = Watch(folder.path, f"{manifest.task.name}-{manifest.identity[:8]}", scalars)
            with watch.shown():
                yield Progress(watch.begin, watch.after_epoch, watch.after_batch)
        if watch.began is None:
            say(f"{manifest.task.name}: every network has a result already")

    return TrainWatch(say, progress)


class Watch:
    """The bar and the table of a run on one store; a log file gets one line an epoch."""

    def __init__(self, name: str, networks_folder: str, scalars: "Scalars | None") -> None:
        self.networks_folder, self.scalars = networks_folder, scalars
        self.bar = progress_bar()
        self.row = self.bar.add_task(name, total=None, visible=False)
        self.live: Live | None = None
        self.began: float | None = None
        """When training began; None until then."""
        self.done_before = 0
        """Batches that an earlier run did."""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the run on the terminal in this block."""
        if not stderr.is_terminal:
            with self.bar:
                yield
            return
        with Live(self.bar, console=stderr) as self.live:
            yield

    def begin(self, task: str, networks: int, where: str) -> None:
        """As `Progress.begin`."""
        count = f"{networks} network{'s' if networks > 1 else ''}"
        say(f"{task}: {count}; the training split is {where}")
        self.began = self.bar.get_time()
        self.bar.reset(self.row, visible=True)

    def after_batch(self, task: str, done: int, total: int) -> None:
        """As `Progress.batch`."""
        if self.bar.tasks[self.row].total is None:
            self.done_before = done - 1
        self.bar.update(self.row, completed=done, total=total)

    def after_epoch(self, task: str, epoch: int, epochs: int, learners: "Sequence[Learner]") -> None:
        """As `Progress.epoch`."""
        if self.scalars is not None:
            self.scalars.write_epoch(self.networks_folder, epoch, learners)
        best = [learner for learner in learners if learner.best]
        best.sort(key=lambda learner: learner.history[learner.best_epoch].score, reverse=True)
        if not best:
            return
        training = sum(not learner.stop for learner in learners)
        validation = best[0].history[best[0].best_epoch].validation
        text = f"{task} epoch {epoch} of {epochs}: best {validation:.2f}, still training: {training}"
        self.bar.update(self.row, description=text)
        if self.live is not None:
            self.live.update(Group(best_networks(best), self.bar))
        else:  # a log file shows no bar until the end
            left = f", at most {self.seconds_left():.0f} s left" if training and epoch < epochs else ""
            say(f"{text}{left}")

    def seconds_left(self) -> float:
        """Return the time left if no network stops; validation's share is that of the epochs so far."""
        done, total = self.bar.tasks[self.row].completed, self.bar.tasks[self.row].total or 0
        gone = self.bar.get_time() - (self.began or 0.0)
        return (total - done) * gone / max(1, done - self.done_before)


def best_networks(learners: "Sequence[Learner]") -> Table:
    """Return a table of the first networks; they come best first."""
    table = Table(title=f"best {min(SHOWN, len(learners))} of {len(learners)}", title_justify="left")
    for column in ("network", "validation", "epoch", "loss, train", "loss, validation", "state"):
        text = column in ("network", "state")
        table.add_column(column, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for learner in learners[:SHOWN]:
        best, last = learner.history[learner.best_epoch], learner.history[-1]
        values = (best.validation, learner.best_epoch + 1, last.train_loss, last.validation_loss)
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(learner.config.name, *shown, str(learner.stop or "training"))
    return table
