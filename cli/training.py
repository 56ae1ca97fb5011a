"""Training on one store as people watch it: a bar, and on a terminal the best networks so far."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.table import Table

from read_cache.cli.output import progress_bar, say, stderr
from read_cache.meters.readings import Readings
from read_cache.meters.summary import summary
from read_cache.store.manifest import StoreFolder
from read_cache.train.grid import NetworkConfig, TrainConfig

if TYPE_CHECKING:
    from read_cache.train.learner import Learner
    from read_cache.train.scalars import Scalars

SHOWN = 8
"""Networks in the live table."""


def run_training(
    folder: StoreFolder,
    out: Path,
    networks: Sequence[NetworkConfig],
    run: TrainConfig,
    scalars: "Scalars | None" = None,
    **options: Any,
) -> list[dict]:
    """Train on one store with progress on stderr; `options` are those of `train_store`."""
    from read_cache.train.loop import Progress
    from read_cache.train.run import networks_folder, train_store

    watch = Watch(str(folder.path), networks_folder(out, folder.read_manifest()).name, scalars)
    with watch.shown():
        progress = Progress(watch.begin, watch.after_epoch, watch.after_batch)
        results = train_store(folder, out, list(networks), run, progress=progress, **options)
    for result in results:
        if result["stopped"].startswith("loss became"):
            say(f"{result['task']}/{result['network']} stopped: {result['stopped']}; try a smaller --lr")
    if watch.began is None:
        say(f"{results[0]['task']}: all of {len(results)} asked for are in {out} already")
    else:
        say(summary(Readings.from_json(results[-1]["meters_for_all_networks"])))
    return results


class Watch:
    """What tells of a run on a store: a bar and a table that are drawn again, or in a log file one line an epoch."""

    def __init__(self, name: str, networks_folder: str, scalars: "Scalars | None") -> None:
        self.networks_folder, self.scalars = networks_folder, scalars
        self.bar = progress_bar()
        self.row = self.bar.add_task(name, total=None, visible=False)
        self.live: Live | None = None
        self.began: float | None = None
        """When; None until then, and where there was nothing to train."""
        self.done_before = 0
        """Batches that an earlier run did."""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """While this lasts, it is on the terminal."""
        if not stderr.is_terminal:
            with self.bar:
                yield
            return
        with Live(self.bar, console=stderr) as self.live:
            yield

    def begin(self, task: str, networks: int, tier: str) -> None:
        """As `Progress.begin`."""
        count = f"{networks} network{'s' if networks > 1 else ''}"
        say(f"{task}: {count}, one read an epoch; the training split is {tier}")
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
        best.sort(key=lambda learner: learner.score(learner.best_epoch), reverse=True)
        if not best:
            return
        training = sum(not learner.stopped for learner in learners)
        score = best[0].history[best[0].best_epoch]["validation"]
        told = f"{task} epoch {epoch}: {training} training, best {score:.2f}"
        self.bar.update(self.row, description=told)
        if self.live is not None:
            self.live.update(Group(best_networks(best), self.bar))
        else:  # a log file shows no bar until the end
            say(f"{told}, {self.seconds_left():.0f} s left at most")

    def seconds_left(self) -> float:
        """If no network stops: with validation's share of what was done so far, as a bar over batches has it not."""
        done, total = self.bar.tasks[self.row].completed, self.bar.tasks[self.row].total or 0
        gone = self.bar.get_time() - (self.began or 0.0)
        return (total - done) * gone / max(1, done - self.done_before)


def best_networks(learners: "Sequence[Learner]") -> Table:
    """The first of them, best first."""
    table = Table(title=f"best {min(SHOWN, len(learners))} of {len(learners)}", title_justify="left")
    for column in ("network", "validation", "epoch", "loss, train", "loss, validation", "now"):
        text = column in ("network", "now")
        table.add_column(column, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for learner in learners[:SHOWN]:
        best, last = learner.history[learner.best_epoch], learner.history[-1]
        values = (best["validation"], learner.best_epoch + 1, last["train_loss"], last["validation_loss"])
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(learner.config.name, *shown, learner.stopped or "trains")
    return table
