"""The training loop of side networks and live methods alike: it imports neither stores nor backbones."""

import time
from collections.abc import Callable, Mapping, Sequence

from read_cache.config import Place, RunConfig
from read_cache.scoring.evaluator import Batches, Evaluation, evaluate
from read_cache.training.checkpoint import Checkpoint, Position, interrupt_between_steps
from read_cache.training.compiled import compiled, plain
from read_cache.training.learner import Learner, averaged
from read_cache.training.results import StopReason
from read_cache.training.stack import steppers
from read_cache.watch import Watch


def train_together(
    learners: Sequence[Learner],
    splits: Mapping[str, Batches],
    checkpoint: Checkpoint,
    run: RunConfig,
    place: Place,
    watch: Watch,
    after_epoch: Callable[[Learner], None],
) -> list[dict[str, Evaluation]]:
    """Train all learners on the same batches; an interrupted run continues from its checkpoint.

    Afterwards each model has the weights of its best epoch. Returns each learner's evaluations on validation and test
    with these weights; none without a test split, or if none of its epochs ended. `after_epoch` is called with each
    learner that ended an epoch, after the checkpoint is saved, so no epoch is reported twice. Raises KeyboardInterrupt
    after Ctrl-C, between two steps; the state is saved.
    """
    position, batches = checkpoint.load(), splits["train"]
    wrap = compiled(watch.say) if place.compile else plain
    began, first = time.monotonic(), position.epoch + position.batch / len(batches)
    task, total = batches.split.manifest.task.name, run.epochs * len(batches)
    with interrupt_between_steps() as interrupted:
        while position.epoch < run.epochs and any(not learner.stop for learner in learners):
            for learner in learners:
                learner.model.train()
            stepping = list(steppers(learners, place.stacked, wrap))
            order = batches.epoch(run.order_seed, position.epoch, position.batch)
            for number, batch in enumerate(order, position.batch + 1):
                for stepper in stepping:
                    if not stepper.stop:
                        stepper.train_step(batch)
                position = Position(position.epoch, number)
                if interrupted() or watch.stopped():
                    checkpoint.save(position)
                    raise KeyboardInterrupt
                if number < len(batches):
                    checkpoint.save_if_due(position)
                watch.progress(task, position.epoch * len(batches) + number, total)
            position = Position(position.epoch + 1)
            end_epoch(learners, splits, position.epoch, run)
            checkpoint.save(position)
            for learner in learners:
                if len(learner.history) == position.epoch:  # the others had stopped before
                    after_epoch(learner)
            seconds = (time.monotonic() - began) / (position.epoch - first) * (run.epochs - position.epoch)
            watch.say(f"{task} {epoch_line(learners, position.epoch, run.epochs, seconds)}")
    for learner in learners:
        learner.stop = learner.stop or StopReason.all_epochs
        learner.model.load_state_dict(learner.best, strict=False)
    trained = [learner for learner in learners if learner.best]
    if "test" not in splits or not trained:
        return [{} for _ in learners]
    found = {name: iter(evaluate_learners(trained, splits[name])) for name in ("validation", "test")}
    return [{name: next(own) for name, own in found.items()} if learner.best else {} for learner in learners]


def end_epoch(learners: Sequence[Learner], splits: Mapping[str, Batches], epoch: int, run: RunConfig) -> None:
    """Validate the networks that have not stopped. After every `run.halving` epochs, stop the worse half of them.

    The others may change themselves before the next epoch.
    """
    for learner in learners:
        learner.check_finite()
    active = [learner for learner in learners if not learner.stop]
    if not active:
        return
    with averaged(active):
        for learner, evaluation in zip(active, evaluate_learners(active, splits["validation"]), strict=True):
            learner.end_epoch(evaluation.metric, evaluation.loss, splits["train"].split.examples)
    active = [learner for learner in active if not learner.stop]
    for index, detail in losers([learner.best_score for learner in active], epoch, run).items():
        active[index].stop, active[index].stop_detail = StopReason.halving, detail
    for learner in active:
        if not learner.stop and epoch < run.epochs:
            learner.change(epoch, splits["train"])


def epoch_line(learners: Sequence[Learner], epoch: int, epochs: int, seconds_left: float) -> str:
    """Return the best validation metric, the number of networks that still train, and the time left, as text."""
    best = [learner.history[learner.best_epoch].validation for learner in learners if learner.best]
    training = sum(not learner.stop for learner in learners)
    left = f", at most {seconds_left:.0f} s left" if training and epoch < epochs else ""
    metric = f"best {max(best):.2f}" if best else "no metric yet"
    return f"epoch {epoch} of {epochs}: {metric}, still training: {training}{left}"


def evaluate_learners(learners: Sequence[Learner], batches: Batches) -> list[Evaluation]:
    """Evaluate all networks in one pass over a split."""
    return evaluate([(learner.model.network, learner.model.head) for learner in learners], batches)


def losers(scores: Sequence[tuple[float, float]], epoch: int, run: RunConfig) -> dict[int, str]:
    """Return which networks halving stops after `epoch` epochs: {index in `scores`: why}.

    A score is that of a network's best epoch so far. The worse half stops, the smaller half of an odd number; of equal
    scores the later. No network is stopped after the last epoch.
    """
    if not run.halving or epoch % run.halving or epoch >= run.epochs:
        return {}
    ranked = sorted(range(len(scores)), key=lambda index: scores[index], reverse=True)
    kept = (len(scores) + 1) // 2
    stopped = enumerate(ranked[kept:], start=kept + 1)
    return {index: f"rank {rank} of {len(scores)} after epoch {epoch}" for rank, index in stopped}
