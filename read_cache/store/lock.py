"""Locks of a store that is being filled: by one extraction alone, or by numbered workers together."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from read_cache.errors import StoreError, UserError
from read_cache.lock_file import HeldError, locked, this_process
from read_cache.store.files import LocalFiles
from read_cache.store.folder import StoreFolder

SHARE = "share the work between numbered workers: worker=1/2 and worker=2/2"


@dataclasses.dataclass(frozen=True)
class Worker:
    """One of several processes that fill a store together; by default the only one."""

    number: int = 1
    count: int = 1

    @staticmethod
    def parse(text: str) -> "Worker":
        """Return the worker that a text such as `2/4` names. Raises UserError."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise UserError(f"worker is {text!r}, expected a text such as 2/4: worker 2 of 4, counted from 1")
        return Worker(int(number), int(count))


@contextlib.contextmanager
def filling(folder: StoreFolder, worker: Worker) -> Iterator[None]:
    """Lock a store's folder, which is created if necessary, for filling. Raises StoreError if another process holds it.

    A worker holds `worker-N.lock` alone and shares `extraction.lock` with its like, which an extraction without
    workers holds alone. Object stores know no locks: there a second extraction is let through, and of two that should
    be alone the slower ends at the first part that both have computed (`StoreWriter.write_part`). Where the store is
    sealed nobody writes again, and nothing is held.
    """
    if not isinstance(folder.files, LocalFiles) or folder.sealed:
        yield
        return
    root = folder.files.root
    new = not root.exists()
    alone, who = worker.count == 1, this_process()
    _make(root)
    try:
        with contextlib.ExitStack() as stack:
            shared = who if alone else f"workers of {worker.count}"
            stack.enter_context(_locked(folder, "extraction.lock", shared, exclusive=alone))
            if not alone:
                name = f"worker {worker.number}/{worker.count}, {who}"
                stack.enter_context(_locked(folder, f"worker-{worker.number}.lock", name))
            yield
    finally:
        if folder.sealed:  # by another worker, before this one made its lock
            remove_locks(folder)
        if new and root.exists() and not any(root.iterdir()):
            root.rmdir()


@contextlib.contextmanager
def planning(folder: StoreFolder) -> Iterator[None]:
    """Lock a store's folder for planning; other workers wait, and then find the plan.

    Behind a URL there are no locks: a plan is written only if there is none, so several workers may plan at once.
    """
    if not isinstance(folder.files, LocalFiles):
        yield
        return
    _make(folder.files.root)
    with _locked(folder, "planning.lock", this_process(), wait=True):
        yield


def _make(root: Path) -> None:
    """Create a store's folder. Raises StoreError if that is impossible."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StoreError(f"{root} exists and is no store: choose another store") from error
    except OSError as error:
        raise StoreError(f"{root} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _locked(folder: StoreFolder, name: str, who: str, exclusive: bool = True, wait: bool = False) -> Iterator[None]:
    """Hold a lock in a store's folder. Raises StoreError if another process holds it, or if it cannot be written."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(Path(folder.path) / name, who, exclusive, wait))
        except HeldError as held:
            raise StoreError(
                f"{folder.path} is being filled by another extraction ({held}): wait for it, or {SHARE}"
            ) from held
        except OSError as error:
            raise StoreError(f"{folder.path} cannot be written: {error.strerror or error}") from error
        yield


def remove_locks(folder: StoreFolder) -> None:
    """Delete the lock files of a sealed store; a process that still holds one keeps an open file."""
    if isinstance(folder.files, LocalFiles):
        for lock in folder.files.root.glob("*.lock"):
            lock.unlink(missing_ok=True)


def leftover(path: Path) -> bool:
    """Return True if a file in a store's folder is a lock, or was left half-written by a killed process."""
    return path.suffix in (".lock", ".unfinished", ".partial")
