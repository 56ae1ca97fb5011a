"""TensorBoard scalars of a run, in one event file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from read_cache.errors import UserError
from read_cache.training.learner import Learner


class Scalars:
    """Writes losses, validation metric and learning rate after each epoch, as STORE/QUANTITY/NETWORK.

    STORE is the name of the folder of the store's networks. A context manager that closes the file.
    """

    def __init__(self, folder: Path) -> None:
        """Open an event file in `folder`. Raises UserError if tensorboard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("the package tensorboard is not installed: pip install tensorboard") from error
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write_epoch(self, store: str, epoch: int, learners: Sequence[Learner]) -> None:
        """Write the last epoch of every network that trained in it."""
        for learner in learners:
            if len(learner.history) == epoch:  # it did not stop before
                rate = learner.config.learning_rate * learner.rate_factor(learner.step)
                for name, value in (learner.history[-1].values() | {"learning_rate": rate}).items():
                    self._writer.add_scalar(f"{store}/{name}/{learner.config.name}", value, epoch)
        self._writer.flush()
