"""Engines: order, one worker for all units, errors, and one from outside."""

import contextlib
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from read_cache.config import Work
from read_cache.engines import ENGINES, Engine, RayEngine, open_engine
from read_cache.engines import ray as ray_engine
from read_cache.errors import UserError
from read_cache.watch import Watch


class Workers:
    """Counts the workers that are open."""

    def __init__(self) -> None:
        self.made = self.open = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Callable[[int], int]]:
        self.made, self.open = self.made + 1, self.open + 1
        try:
            yield lambda item: 10 // item
        finally:
            self.open -= 1


def test_results_come_in_order_from_one_worker_that_is_closed() -> None:
    workers = Workers()
    assert list(open_engine(Work()).map(workers, [5, 2, 1])) == [2, 5, 10]
    assert (workers.made, workers.open) == (1, 0)


def test_without_work_there_is_no_worker() -> None:
    workers = Workers()
    assert list(open_engine(Work()).map(workers, [])) == []
    assert workers.made == 0


def test_an_error_ends_the_work_and_closes_the_worker() -> None:
    workers = Workers()
    with pytest.raises(ZeroDivisionError):
        list(open_engine(Work()).map(workers, [5, 0, 1]))
    assert workers.open == 0


def test_an_unknown_engine_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"'cloud'.*local.*ray"):
        open_engine(Work(engine="cloud"))


def test_without_ray_its_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"read-cache\[ray\]"):
        open_engine(Work(engine="ray"))


def test_rays_workers_are_heard_through_their_reports() -> None:
    """What a worker's process keeps is what `map` passes on. Ray itself is not needed for either half."""
    heard: list[Any] = []
    engine = object.__new__(RayEngine)
    watch = engine.relay(
        Watch(heard.append, lambda *step: heard.append(step), event=lambda *event: heard.append(event))
    )
    watch = pickle.loads(pickle.dumps(watch))
    watch.say("begun")
    watch.progress("words", 0, 2)
    watch.progress("words", 1, 2)
    watch.event("on_epoch", 3)
    assert heard == []
    engine._pass_on(ray_engine._called(), "worker", {})
    assert heard == ["begun", ("words", 1, 2), ("on_epoch", 3)]
    assert ray_engine._called() == []


def test_an_engine_from_outside_is_found_by_its_name(monkeypatch) -> None:
    class Threads(Engine):
        workers = 2

        def map(self, make_worker: Callable[[], Any], items: Sequence[int]) -> Iterator[int]:
            def one(item: int) -> int:
                with make_worker() as work:
                    return work(item)

            with ThreadPoolExecutor(self.workers) as pool:
                yield from pool.map(one, items)

    monkeypatch.setitem(ENGINES, "threads", Threads)
    workers = Workers()
    assert list(open_engine(Work(engine="threads")).map(workers, [5, 2, 1])) == [2, 5, 10]
    assert (workers.made, workers.open) == (3, 0)
