"""The interface of an engine, and the engine that runs everything in this process."""

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from read_cache.errors import UserError

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
        """Yield the result of each work unit, in their order. Raises whatever a work unit raises.

        `make_worker` is called once in each worker. Engines with processes of their own need it to be picklable.
        """


class LocalEngine(Engine):
    """Runs the work units one after the other, in this process."""

    def map(self, make_worker: Callable[[], Worker[T, R]], items: Sequence[T]) -> Iterator[R]:
        """Yield the result of each item. The worker is closed after the last one, or when one fails."""
        if not items:
            return
        with make_worker() as work:
            for item in items:
                yield work(item)


ENGINES: dict[str, type[Engine]] = {"local": LocalEngine}
"""Engines by name, as the setting `engine` has it."""


def open_engine(name: str) -> Engine:
    """Return an engine by name. Raises UserError for an unknown one."""
    if name not in ENGINES:
        raise UserError(f"engine is {name!r}, expected one of {', '.join(ENGINES)}")
    return ENGINES[name]()
