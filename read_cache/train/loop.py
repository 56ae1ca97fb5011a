"""Networks that train together on one store, from the first step or a checkpoint to the last epoch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from read_cache.loader.batches import SplitBatches
from read_cache.networks.read import Read
from read_cache.scoring.evaluator import Evaluator
from read_cache.scoring.heads import Head
from read_cache.store.reader import SplitReader
from read_cache.train.checkpoint import Checkpoint, Position, interrupt_between_steps
from read_cache.train.grid import TrainConfig
from read_cache.train.learner import Learner
from read_cache.train.stack import steppers
from read_cache.train.sweep import dropped_networks


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run tells whoever watches it."""

    begin: Callable[[str, int, str], None] = lambda task, networks, tier: None
    """Called once with the task, how many networks train on it, and where the training split's parts are held."""
    epoch: Callable[[str, int, int, Sequence[Learner]], None] = lambda task, epoch, epochs, learners: None
    """Called after each epoch with the task, the epochs done, the most there will be, and the learners."""
    batch: Callable[[str, int, int], None] = lambda task, done, total: None
    """Called after each batch with the batches done and the most there will be."""


@dataclasses.dataclass(frozen=True)
class TogetherTraining:
    """Learners, the splits they share, and where their state is kept."""

    learners: list[Learner]
    batches: Mapping[str, SplitBatches]
    head: Head
    checkpoint: Checkpoint
    run: TrainConfig
    stacked: bool
    """Like networks take their steps as one."""
    progress: Progress

    def train(self) -> None:
        """Every epoch that is left. Ctrl-C between two steps saves and raises KeyboardInterrupt."""
        position = self.checkpoint.load()
        task = self._split("train").manifest.task.name
        with interrupt_between_steps() as interrupted:
            while position.epoch < self.run.epochs and any(not learner.stopped for learner in self.learners):
                self._train_epoch(position, interrupted)
                position = Position(position.epoch + 1)
                self._end_epoch(position.epoch)
                self.checkpoint.save(position)
                self.progress.epoch(task, position.epoch, self.run.epochs, self.learners)

    def test_metrics(self) -> list[dict[str, float] | None]:
        """Of each network with the weights of its best epoch; None where it has none, or there is no test split."""
        trained = [learner for learner in self.learners if learner.best]
        for learner in trained:
            learner.network.load_state_dict(learner.best)
        if "test" not in self.batches or not trained:
            return [None] * len(self.learners)
        networks: list[Read | None] = [learner.network for learner in trained]
        found = zip(trained, self._evaluator("test").evaluate(networks), strict=True)
        details = {id(learner): scored.details | {"metric": scored.metric} for learner, scored in found}
        return [details.get(id(learner)) for learner in self.learners]

    def _train_epoch(self, position: Position, interrupted: Callable[[], bool]) -> None:
        """Every network that has not stopped takes its step on every batch of an epoch, from `position` on.

        The state is saved now and then, and before KeyboardInterrupt is raised.
        """
        batches = self.batches["train"]
        for learner in self.learners:
            learner.network.train()
        stepping = steppers(self.learners, self.stacked)
        done, total = position.epoch * len(batches), self.run.epochs * len(batches)
        order = batches.epoch(self.run.order_seed, position.epoch, position.batch)
        for number, batch in enumerate(order, position.batch + 1):
            for stepper in stepping:
                if not stepper.stopped:
                    stepper.train_step(batch, self.head)
            if interrupted():
                self.checkpoint.save(Position(position.epoch, number))
                raise KeyboardInterrupt
            if number < len(batches):
                self.checkpoint.save_if_due(Position(position.epoch, number))
            self.progress.batch(batches.split.manifest.task.name, done + number, total)

    def _end_epoch(self, epoch: int) -> None:
        """Validate the networks that have not stopped, and drop those that lose where that is asked for."""
        active = [learner for learner in self.learners if not learner.stopped]
        scores = self._evaluator("validation").evaluate([learner.network for learner in active])
        for learner, scored in zip(active, scores, strict=True):
            learner.end_epoch(scored.metric, scored.loss, self._split("train").examples)
        active = [learner for learner in active if not learner.stopped]
        best = [learner.score(learner.best_epoch) for learner in active]
        for place, why in dropped_networks(best, epoch, self.run).items():
            active[place].stopped = why

    def _split(self, name: str) -> SplitReader:
        return self.batches[name].split

    def _evaluator(self, name: str) -> Evaluator:
        return Evaluator(self._split(name), self.batches[name], self.head)
