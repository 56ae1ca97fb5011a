"""Who fills a store: one extraction alone, or numbered workers together."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from read_cache.errors import StoreError, UserError
from read_cache.lock_file import HeldError, locked, this_process
from read_cache.store.files import LocalFiles
from read_cache.store.manifest import StoreFolder

SHARE = "let several share the work, each with a number of its own: --worker 1/2, --worker 2/2"


@dataclasses.dataclass(frozen=True)
class Worker:
    """One of several processes that fill a store together; the default is alone."""

    number: int = 1
    count: int = 1

    @staticmethod
    def parse(text: str) -> "Worker":
        """From `2/4`. Raises UserError."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise UserError(f"--worker {text!r} is not of the form 2/4: worker 2 of 4, counted from 1")
        return Worker(int(number), int(count))


@contextlib.contextmanager
def filling(folder: StoreFolder, worker: Worker) -> Iterator[None]:
    """Hold a store's folder, which is made if need be, for filling. StoreError where another process holds it.

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
    """Plan a store's folder alone: the workers that come while another does wait for it, and see what it left.

    Behind a URL nothing is held: what is planned there is written only where none is, so several may do it at once.
    """
    if not isinstance(folder.files, LocalFiles):
        yield
        return
    _make(folder.files.root)
    with _locked(folder, "planning.lock", this_process(), wait=True):
        yield


def _make(root: Path) -> None:
    """A store's folder. StoreError where there can be none."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StoreError(f"{root} exists and is no store: give another --store") from error
    except OSError as error:
        raise StoreError(f"{root} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _locked(folder: StoreFolder, name: str, who: str, exclusive: bool = True, wait: bool = False) -> Iterator[None]:
    """Hold a lock in a store's folder. StoreError where another process holds it, or it cannot be written."""
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
    """Delete the lock files of a store that is sealed; who still holds one keeps an open file."""
    if isinstance(folder.files, LocalFiles):
        for lock in folder.files.root.glob("*.lock"):
            lock.unlink(missing_ok=True)


def leftover(path: Path) -> bool:
    """Whether a file in a store's folder is a lock, or what a killed process left half-written."""
    return path.suffix in (".lock", ".unfinished", ".partial")
