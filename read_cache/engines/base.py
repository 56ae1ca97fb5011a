"""The interface of an engine."""

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
Worker = AbstractContextManager[Callable[[T], R]]
"""A context manager whose value is a function from a work unit to its result."""


class Engine(abc.ABC):
    """Runs work units on one or more workers.

    A work unit may run twice, for instance after a worker was lost: it must skip what is complete on disk. Workers must
    not share a backbone between threads: its forward pass keeps state while it runs.
    """

    workers: int = 1
    """Number of workers. A run divides its networks into as many groups."""

    @abc.abstractmethod
    def map(self, make_worker: Callable[[], Worker[T, R]], items: Sequence[T]) -> Iterator[R]:
        """Yield the result of each item, in the order of the items.

        Args:
            make_worker: called once in each worker. Engines with processes of their own need it to be picklable.
            items: work units.

        Raises:
            Whatever a work unit raises.
        """
