"""Copies of a remote store's parts on a local disk, so that each is fetched once a machine, not once an epoch."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from read_cache.store.files import LocalFiles
from read_cache.store.remote import RemoteFiles

COUNT_EVERY = 10.0
"""Seconds after which the copies of other processes are counted again."""
FOLDER = "parts"
"""Below the user's cache folder, with a folder for each store."""
LOCKS = 64
"""Number of lock files. Two processes that need the same part fetch it once."""


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of files that can be made again, below XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "read-cache" / kind


class CopiedFiles(RemoteFiles):
    """Remote files that keep a copy of what `read_into` has read.

    If a new copy has no room, copies of other stores are removed, the store that was opened first before the others. If
    there is still no room, no further copies are kept: which parts are read again is the same in every epoch.
    """

    def __init__(self, url: str, limit: float) -> None:
        """`limit` is the size of all copies of all stores in bytes."""
        super().__init__(url)
        self.limit, self._used, self._counted = limit, 0, -COUNT_EVERY
        self.copies = LocalFiles(cache_folder(FOLDER) / hashlib.sha256(self.url.encode()).hexdigest()[:16])
        with contextlib.suppress(OSError):
            self.copies.root.mkdir(parents=True, exist_ok=True)
            os.utime(self.copies.root)

    def read_into(self, name: str, pieces: Sequence[tuple[int, np.ndarray]]) -> Iterator[int]:
        starts = repr([start for start, _ in pieces])  # a copy holds the pieces that begin there
        copy = f"{name}@{hashlib.sha256(starts.encode()).hexdigest()[:8]}"
        counts = self._read_copy(copy, pieces)
        if counts is None:
            with contextlib.ExitStack() as stack:
                with contextlib.suppress(OSError):  # in a folder without locks, two processes may fetch the same part
                    number = int(hashlib.sha256(copy.encode()).hexdigest(), 16) % LOCKS
                    stack.enter_context(FileLock(self.copies.root / f"lock-{number}"))
                counts = self._read_copy(copy, pieces)  # another process may have made it meanwhile
                if counts is None:
                    counts = list(super().read_into(name, pieces))
                    if counts[:-1] == [len(piece) for _, piece in pieces[:-1]]:
                        self._keep(copy, [piece[:count] for (_, piece), count in zip(pieces, counts, strict=True)])
        yield from counts

    def forget(self, name: str) -> bool:
        copies = list((self.copies.root / name).parent.glob(f"{Path(name).name}@*"))
        for copy in copies:
            copy.unlink(missing_ok=True)
        return bool(copies)

    def _read_copy(self, copy: str, pieces: Sequence[tuple[int, np.ndarray]]) -> list[int] | None:
        """Fill the pieces from a copy and return the bytes of each, or None if there is no copy."""
        starts = np.cumsum([0, *(len(piece) for _, piece in pieces[:-1])]).tolist()
        with contextlib.suppress(OSError):
            return list(
                self.copies.read_into(copy, [(at, piece) for at, (_, piece) in zip(starts, pieces, strict=True)])
            )
        return None

    def _keep(self, copy: str, pieces: Sequence[np.ndarray]) -> None:
        """Write a copy if there is room. A full disk keeps none."""
        size = sum(map(len, pieces))
        with contextlib.suppress(OSError):
            if self._has_room(size):
                self.copies.write(copy, np.concatenate(pieces), durable=False)
                self._used += size

    def _has_room(self, size: int) -> bool:
        """Return True if `size` more bytes are within the limit, after other stores' copies were removed."""
        if time.monotonic() - self._counted > COUNT_EVERY:
            self._count()
        if self._used + size > self.limit >= size:
            for folder in sorted(cache_folder(FOLDER).iterdir(), key=lambda folder: folder.stat().st_mtime):
                if folder != self.copies.root and self._used + size > self.limit:
                    shutil.rmtree(folder, ignore_errors=True)
                    self._count()
        return self._used + size <= self.limit

    def _count(self) -> None:
        self._used, self._counted = sum(LocalFiles(cache_folder(FOLDER)).sizes("").values()), time.monotonic()
