"""The interface of an engine, and the engine that runs everything in this process."""

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from read_cache.config import Work
from read_cache.watch import Watch

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
    alone: bool = False
    """True if no other process may be running a work unit."""

    def __init__(self, settings: Work | None = None) -> None:
        self.settings = settings or Work()

    def relay(self, watch: Watch) -> Watch:
        """Return functions that workers call in place of those of `watch`: its own, in this process."""
        return watch

    @abc.abstractmethod
    def map(self, make_worker: Callable[[], Worker[T, R]], items: Sequence[T]) -> Iterator[R]:
        """Yield the result of each work unit, in their order. Raises whatever a work unit raises.

        `make_worker` is called once in each worker. Engines with processes of their own need it to be picklable.
        """


class LocalEngine(Engine):
    """Runs the work units one after the other, in this process."""

    alone = True

    def map(self, make_worker: Callable[[], Worker[T, R]], items: Sequence[T]) -> Iterator[R]:
        """Yield the result of each item. The worker is closed after the last one, or when one fails."""
        if not items:
            return
        with make_worker() as work:
            for item in items:
                yield work(item)
