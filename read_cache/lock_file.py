"""A file that says which process works in a folder. A lock dies with its process."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class HeldError(Exception):
    """Another process holds a lock; `str` of this is what that process wrote into it."""


def this_process() -> str:
    """Return a description of this process, for others that find its lock."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextlib.contextmanager
def locked(path: Path, who: str, exclusive: bool = True, wait: bool = False) -> Iterator[None]:
    """Hold a lock file that names `who`. Raises HeldError if another process holds it, unless `wait` is set.

    Raises OSError where it cannot be written.
    """
    with _lock(path, exclusive, wait) as file:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            file.truncate(0)
            file.write(who.encode())
        try:
            yield
        finally:
            if exclusive:
                path.unlink(missing_ok=True)  # while it is still held


def _lock(path: Path, exclusive: bool, wait: bool) -> IO[bytes]:
    """Return a lock file, open and locked."""
    while True:
        file = path.open("ab+", buffering=0)
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BlockingIOError as error:
            file.seek(0)
            with file:
                raise HeldError(file.read().decode()) from error
        file.close()  # its holder removed it after it was opened here: who opens it now opens another
