"""TensorBoard scalars: one run a network, one point an epoch."""

from collections.abc import Sequence
from pathlib import Path

from read_cache.errors import UserError
from read_cache.train.learner import Learner


class Scalars:
    """Writes each network's losses, validation metric and learning rate to FOLDER/STORE/NETWORK.

    STORE is what the store's networks' folder is called: a task may have several.

    Raises UserError where tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
        self._folder, self._writer = folder, SummaryWriter

    def write_epoch(self, store: str, epoch: int, learners: Sequence[Learner]) -> None:
        """The last epoch of every network that trained in it."""
        for learner in learners:
            if len(learner.history) != epoch:  # it had stopped before
                continue
            values = learner.history[-1] | {
                "learning_rate": learner.config.learning_rate * learner.rate_factor(learner.step)
            }
            with self._writer(str(self._folder / store / learner.config.name)) as writer:
                for name, value in values.items():
                    writer.add_scalar(name, value, epoch)
