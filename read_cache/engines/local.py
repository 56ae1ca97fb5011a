"""The engine that runs everything in this process."""

from collections.abc import Callable, Iterator, Sequence

from read_cache.engines.base import Engine, R, T, Worker


class LocalEngine(Engine):
    """Runs the work units one after the other, in this process."""

    def map(self, make_worker: Callable[[], Worker[T, R]], items: Sequence[T]) -> Iterator[R]:
        """Yield the result of each item. The worker is closed after the last one, or when one fails."""
        if not items:
            return
        with make_worker() as work:
            for item in items:
                yield work(item)
