"""Ray: workers are actors on the nodes of a cluster. Ray places them, and starts them again when they are lost."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from read_cache.config import Work
from read_cache.engines.base import Engine, R, T, Worker
from read_cache.errors import UserError
from read_cache.heap import keep_freed_memory
from read_cache.watch import Watch

CONNECT_SECONDS = 10.0
LOSSES = 5
"""Number of workers that one unit may lose."""
PERIOD = 1.0
"""Seconds between two reports of a worker."""
STOP_SECONDS = 60.0
"""Longest wait for workers to save their state after Ctrl-C."""
Calls = list[tuple[str, tuple[Any, ...]]]
"""Names of functions of a `Watch`, and their arguments."""
CALLS: deque[tuple[str, tuple[Any, ...]]] = deque()
"""In a worker's process: its calls since the last report; of steps in a row, the last one."""
STOPPED = threading.Event()
"""In a worker's process: set after Ctrl-C."""


class RayEngine(Engine):
    """Gives each worker one unit at a time; a unit whose worker is lost goes to another one.

    A worker gets units once it has answered, so one that finds no free node holds up nothing. Workers have one core
    each, and GPUs by the setting `gpus_per_worker`. Nodes must reach the same paths as this process. If the program has
    called `ray.init`, its cluster is used. Without an address a cluster starts here, which ends with the program.
    """

    def __init__(self, settings: Work | None = None) -> None:
        """Raise UserError if ray is not installed."""
        super().__init__(settings)
        self.workers, self._watch = self.settings.workers, Watch()
        try:
            import ray
        except ImportError as error:
            raise UserError("engine is 'ray', which is not installed: run pip install 'read-cache[ray]'") from error
        self._ray = ray

    def relay(self, watch: Watch) -> Watch:
        """Return functions that keep what they are given in the worker's process, where `map` collects it."""
        self._watch = watch
        return Watch(partial(_call, "say"), partial(_call, "progress"), _stopped, partial(_call, "event"))

    def map(self, make_worker: Callable[[], Worker[T, R]], items: Sequence[T]) -> Iterator[R]:
        """Yield the result of each item. Raises UserError for a cluster that cannot be reached.

        After Ctrl-C, trainings save their state first; a second Ctrl-C ends them at once.
        """
        if not items:
            return
        ray, errors = self._ray, self._ray.exceptions
        make_actor = self._connect()
        shared = ray.put(make_worker)  # workers get the reference, and those that start again read it again
        actors = [make_actor(os.getcwd()) for _ in range(min(self.workers, len(items)))]
        tasks: dict[Any, tuple[Any, int | None]] = {_ask(actor, 0): (actor, None) for actor in actors}
        """By reference: the actor, and the index of the item that it works on; None for a report."""
        waiting, lost = deque(range(len(items))), Counter[int]()
        results, steps, opened, yielded = dict[int, R](), dict[Any, list[int]](), set[Any](), 0
        try:
            while yielded < len(items):
                (ref,), _ = ray.wait([*tasks])
                actor, index = tasks.pop(ref)
                try:
                    result, calls = ray.get(ref)
                except errors.ActorDiedError as error:
                    raise UserError(f"a Ray worker cannot be started: {error}") from error
                except errors.ActorUnavailableError as error:  # Ray is starting it again
                    if index is None:
                        tasks[_ask(actor, 0)] = actor, None
                        continue
                    waiting.appendleft(index)
                    lost[index] += 1
                    if lost[index] == LOSSES:
                        raise UserError(
                            f"work unit {index + 1} of {len(items)} has ended {LOSSES} workers: check that the nodes "
                            "have enough memory, and run the same command again"
                        ) from error
                    continue
                if index is None:
                    tasks[_ask(actor, PERIOD)] = actor, None
                else:
                    results[index] = result
                self._pass_on(calls, actor, steps)
                if waiting and all(unit is None for busy, unit in tasks.values() if busy == actor):
                    index = waiting.popleft()
                    tasks[actor.run.remote([shared], items[index])] = actor, index
                    opened.add(actor)
                while yielded in results:
                    yield results.pop(yielded)
                    yielded += 1
            for ref in [actor.close.remote() for actor in opened]:
                with contextlib.suppress(errors.RayActorError):  # it was lost
                    ray.get(ref)
        except errors.RayTaskError as error:
            raise error.cause from error
        except KeyboardInterrupt:
            running = {ref: actor for ref, (actor, unit) in tasks.items() if unit is not None}
            for actor in running.values():
                actor.stop.options(concurrency_group="reports").remote()
            ray.wait([*running], num_returns=len(running), timeout=STOP_SECONDS)
            raise
        finally:
            for actor in actors:
                ray.kill(actor)

    def _connect(self) -> Callable[..., Any]:
        """Connect to Ray and return a function that starts an actor."""
        ray, gpus = self._ray, self.settings.gpus_per_worker
        address = self.settings.address or os.environ.get("RAY_ADDRESS") or "local"
        if not ray.is_initialized():
            host, _, port = address.rpartition(":")
            try:
                if port.isdigit() and "/" not in host:
                    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()  # ray would try for minutes
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, ValueError, RuntimeError) as error:
                raise UserError(f"no Ray cluster can be used at the address {address}: {error}") from error
        if gpus is None:
            gpus = float(self.settings.device.startswith("cuda"))
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": -1, "scheduling_strategy": "SPREAD"}
        return ray.remote(**options, concurrency_groups={"reports": 1})(_Actor).remote

    def _pass_on(self, calls: Calls, actor: Any, steps: dict[Any, list[int]]) -> None:
        """Make a worker's calls here. Progress is the sum over all workers."""
        for name, values in calls:
            if name == "progress":
                work, *steps[actor] = values
                values = (work, *(sum(counts) for counts in zip(*steps.values(), strict=True)))
            getattr(self._watch, name)(*values)


class _Actor:
    """A worker in a process of its own. Units run on one thread, reports on another."""

    def __init__(self, folder: str) -> None:
        keep_freed_memory()
        with contextlib.suppress(OSError):
            os.chdir(folder)  # relative paths mean the same as in the driver
        self._stack = contextlib.ExitStack()
        self._work: Callable[[Any], Any] | None = None

    def run(self, shared: list[Any], item: Any) -> tuple[Any, Calls]:
        """Return a unit's result. The first unit opens the worker, by the function that `shared` refers to."""
        import ray

        self._work = self._work or self._stack.enter_context(ray.get(shared[0])())
        return self._work(item), _called()

    def report(self, seconds: float) -> tuple[None, Calls]:
        """Return the units' calls of the next `seconds`."""
        time.sleep(seconds)
        return None, _called()

    def stop(self) -> None:
        """End trainings between two steps."""
        STOPPED.set()

    def close(self) -> None:
        self._stack.close()


def _ask(actor: Any, seconds: float) -> Any:
    """Return the reference to a worker's next report."""
    return actor.report.options(concurrency_group="reports").remote(seconds)


def _call(name: str, *values: Any) -> None:
    with contextlib.suppress(IndexError):  # no call waits, or the other thread has just taken the last one
        if name == "progress" == CALLS[-1][0]:
            CALLS[-1] = name, values
            return
    CALLS.append((name, values))


def _called() -> Calls:
    """Return the calls since the last report."""
    calls: Calls = []
    with contextlib.suppress(IndexError):  # the other thread may take the last one
        while True:
            calls.append(CALLS.popleft())
    return calls


def _stopped() -> bool:
    return STOPPED.is_set()
