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
    from read_cache.train.together import Progress

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
    from read_cache.train.run import train_store

    with watching(str(folder.path), scalars) as progress:
        results = train_store(folder, out, list(networks), run, progress=progress, **options)
    for result in results:
        if result["stopped"].startswith("loss became"):
            say(f"{result['task']}/{result['network']} stopped: {result['stopped']}; try a smaller --lr")
    if results:
        say(summary(Readings.from_json(results[-1]["meters_for_all_networks"])))
    return results


@contextlib.contextmanager
def watching(name: str, scalars: "Scalars | None") -> Iterator["Progress"]:
    """What tells of a run: a bar and a table that are drawn again, or in a log file one line an epoch."""
    from read_cache.train.together import Progress

    bar = progress_bar()
    row = bar.add_task(name, total=None)
    with Live(bar, console=stderr) if stderr.is_terminal else bar as live:
        started, before = 0.0, 0

        def begin(task: str, networks: int, tier: str) -> None:
            nonlocal started
            started = bar.get_time()
            count = f"{networks} network{'s' if networks > 1 else ''}"
            say(f"{task}: {count}, one read an epoch; the training split is {tier}")

        def after_batch(task: str, done: int, total: int) -> None:
            nonlocal before
            if bar.tasks[row].total is None:  # the first of this run, which may go on from a checkpoint
                before = done - 1
            bar.update(row, completed=done, total=total)

        def after_epoch(task: str, epoch: int, epochs: int, learners: "Sequence[Learner]") -> None:
            if scalars is not None:
                scalars.write_epoch(task, epoch, learners)
            best = [learner for learner in learners if learner.best]
            best.sort(key=lambda learner: learner.score(learner.best_epoch), reverse=True)
            if not best:
                return
            training = sum(not learner.stopped for learner in learners)
            score = best[0].history[best[0].best_epoch]["validation"]
            told = f"{task} epoch {epoch}: {training} training, best {score:.2f}"
            bar.update(row, description=told)
            if isinstance(live, Live):
                live.update(Group(best_networks(best), bar))
            else:  # a log file shows no bar until the end
                done, total = bar.tasks[row].completed, bar.tasks[row].total or 0
                left = (total - done) * (bar.get_time() - started) / (done - before)  # with validation's share
                say(f"{told}, {left:.0f} s left at most")

        yield Progress(begin, after_epoch, after_batch)


def best_networks(learners: "Sequence[Learner]") -> Table:
    """The first of them, best first."""
    table = Table(title=f"best {min(SHOWN, len(learners))} of {len(learners)}", title_justify="left")
    for column in ("network", "validation", "epoch", "loss, train", "loss, validation", "now"):
        table.add_column(column, justify="left" if column in ("network", "now") else "right", no_wrap=True)
    for learner in learners[:SHOWN]:
        best, last = learner.history[learner.best_epoch], learner.history[-1]
        values = (best["validation"], learner.best_epoch + 1, last["train_loss"], last["validation_loss"])
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(learner.config.name, *shown, learner.stopped or "trains")
    return table
