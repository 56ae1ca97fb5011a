"""Lock files: of a store that is being filled, by one extraction alone or by numbered workers, and of any folder."""

import contextlib
import dataclasses
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from read_cache.errors import StoreError, UserError
from read_cache.store.files import LocalFiles, leftover
from read_cache.store.folder import StoreFolder

LOCKS, UNFINISHED = "*.lock", "**/*.unfinished"
"""Patterns of the files that killed processes may leave in a store's folder; `files.leftover` checks their names."""
SHARE = "share the work between numbered workers: worker=1/2 and worker=2/2"


class HeldError(Exception):
    """Another process holds a lock; `str` of this names the process."""


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, which is removed at the end. It names this process; the lock ends if the process dies.

    Raises HeldError if another process holds it, unless `wait` is set; OSError if the file cannot be written.
    """
    path.parent.stat()  # raises FileNotFoundError; filelock would create the folder
    lock = FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except Timeout as error:
        raise HeldError(path.read_text() if path.exists() else path.name) from error
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held, so that nobody else holds a removed file
        lock.release()


@dataclasses.dataclass(frozen=True)
class Worker:
    """One of several processes that fill a store together; by default the only one."""

    number: int = 1
    count: int = 1

    def turn(self, part: Any) -> Any:
        """Return the turn, from 0 to `count`, in which this worker fills a part, int, or parts, [...] int.

        Of n workers each owns every n-th part, its turn 0. Turn 1 deals the parts of one owner out to the n - 1 others.
        """
        distance = (self.number - 1 - part) % self.count  # from the owner to this worker
        return (distance > 0) * (1 + (part // self.count - distance) % max(1, self.count - 1))

    @staticmethod
    def parse(text: str) -> "Worker":
        """Return the worker that a text such as `2/4` names. Raises UserError."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            raise UserError(f"worker is {text!r}, expected a text such as 2/4: worker 2 of 4, counted from 1")
        return Worker(number, count)


@contextlib.contextmanager
def filling(folder: StoreFolder, worker: Worker) -> Iterator[None]:
    """Lock a store's folder for filling; the folder is created. Raises StoreError if another process holds it.

    An extraction alone holds `extraction.lock` and excludes all others; worker N holds `worker-N.lock`. A sealed store
    is not locked. Neither is an object store: of two extractions there that should be alone, the slower one fails at
    the first part that both have computed (`StoreWriter.write_part`).
    """
    if not isinstance(folder.files, LocalFiles) or folder.sealed:
        yield
        return
    root = folder.files.root
    new, alone = not root.exists(), worker.count == 1
    try:
        with contextlib.ExitStack() as stack:
            with folder_locked(folder, "looking.lock", wait=True):  # one process at a time looks at the others' locks
                for other in sorted(root.glob("worker-*.lock" if alone else "extraction.lock")):
                    with folder_locked(folder, other.name):
                        pass  # a killed process left it
                stack.enter_context(
                    folder_locked(folder, "extraction.lock" if alone else f"worker-{worker.number}.lock")
                )
            yield
    finally:
        if folder.sealed:  # by another worker, before this one made its lock
            remove_leftovers(folder, LOCKS)
        if new and root.exists() and not any(root.iterdir()):
            root.rmdir()


@contextlib.contextmanager
def folder_locked(folder: StoreFolder, name: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock in a store's folder; behind a URL there are no locks.

    Raises StoreError if another process holds it, unless `wait` is set, or if it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        path = Path(folder.path) / name
        try:
            if isinstance(folder.files, LocalFiles):
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path, wait))
        except HeldError as held:
            raise StoreError(
                f"{folder.path} is being filled by another extraction ({held}): wait for it, or {SHARE}"
            ) from held
        except FileExistsError as error:
            raise StoreError(f"{path.parent} exists and is no store: choose another store") from error
        except OSError as error:
            raise StoreError(f"{folder.path} cannot be written: {error.strerror or error}") from error
        yield


def remove_leftovers(folder: StoreFolder, *patterns: str) -> None:
    """Delete what killed processes left: `LOCKS` of a sealed store, or files that are `UNFINISHED`.

    A process that still holds a lock keeps an open file. Object stores have neither.
    """
    if isinstance(folder.files, LocalFiles):
        for path in (path for pattern in patterns for path in folder.files.root.glob(pattern) if leftover(path)):
            path.unlink(missing_ok=True)
