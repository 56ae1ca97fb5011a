"""Progress of training on stderr: a bar on a terminal, one line an epoch in a log file."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from read_cache.api.training import TrainWatch
from read_cache.cli.output import progress_bar, say, stderr
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest

if TYPE_CHECKING:
    from read_cache.training.learner import Learner
    from read_cache.training.loop import Progress


def train_watch(out: Path, tensorboard: bool = False) -> TrainWatch:
    """Return functions that show a run on stderr, and write TensorBoard scalars to OUT/tensorboard if asked to."""

    @contextlib.contextmanager
    def progress(folder: StoreFolder, manifest: Manifest) -> "Iterator[Progress]":
        from read_cache.training.loop import Progress
        from read_cache.training.scalars import Scalars

        bar = progress_bar()
        row, began = bar.add_task(folder.path, total=None, visible=False), False

        def begin(task: str, networks: int, where: str) -> None:
            nonlocal began
            began = True
            say(f"{task}: {networks} network{'s' if networks > 1 else ''}; the training split is {where}")
            bar.reset(row, visible=True)

        def after_epoch(task: str, epoch: int, epochs: int, learners: "Sequence[Learner]") -> None:
            if scalars is not None:
                scalars.write_epoch(f"{manifest.task.name}-{manifest.identity[:8]}", epoch, learners)
            trained = [learner for learner in learners if learner.best]
            if not trained:
                return
            best = max(trained, key=lambda learner: learner.best_score)
            training = sum(not learner.stop for learner in learners)
            validation = best.history[best.best_epoch].validation
            text = f"{task} epoch {epoch} of {epochs}: best {validation:.2f}, still training: {training}"
            bar.update(row, description=text)
            if not stderr.is_terminal:  # a log file shows no bar until the end
                left = bar.tasks[row].time_remaining if training and epoch < epochs else None
                say(text if left is None else f"{text}, at most {left:.0f} s left")

        def after_batch(task: str, done: int, total: int) -> None:
            bar.update(row, completed=done, total=total)

        with contextlib.ExitStack() as stack:
            scalars = stack.enter_context(Scalars(out / "tensorboard")) if tensorboard else None
            stack.enter_context(bar)
            yield Progress(begin, after_epoch, after_batch)
        if not began:
            say(f"{manifest.task.name}: every network has a result already")

    return TrainWatch(say, progress)
