"""The files of a store: in a folder, or behind any URL that fsspec opens. Committing needs no rename."""

import contextlib
import dataclasses
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import zarr

from read_cache.store.remote import RemoteFiles

LEFTOVER = re.compile(r"(extraction|planning|looking|worker-\d+)\.lock|.+\.[0-9a-f]{32}\.unfinished")


def leftover(path: Path) -> bool:
    """Return True if a file in a store's folder is one of its locks, or was left half-written by a killed process."""
    return LEFTOVER.fullmatch(path.name) is not None


@dataclasses.dataclass(frozen=True)
class LocalFiles:
    """Files in a folder. Names are relative, with slashes."""

    root: Path
    on_hub = False

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def read(self, name: str) -> bytes:
        """Return a small file's bytes. Raises FileNotFoundError."""
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes | np.ndarray, durable: bool = True) -> None:
        """Write a file atomically: readers see all of it or none."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.unfinished")
        try:
            with unfinished.open("wb") as file:
                file.write(data)  # type: ignore[arg-type]
                file.flush()
                if durable:
                    os.fsync(file.fileno())  # `done` must never reach the disk before the data it speaks of
            os.replace(unfinished, path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise

    def settle(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists. Return True if it then holds `data`."""
        if not self.exists(name):  # the planning lock excludes other writers
            self.write(name, data, durable="/" not in name)  # hundreds of small files, each with a checksum
        return self.read(name) == data

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def read_into(self, name: str, pieces: Sequence[tuple[int, np.ndarray]]) -> Iterator[int]:
        """Fill arrays, [bytes] uint8, with a file's bytes from given offsets on; nothing else of it is read.

        Yields, after each array, the number of bytes read, which is smaller than the array where the file ends.
        """
        with (self.root / name).open("rb") as file:
            for start, piece in pieces:
                file.seek(start)
                yield file.readinto(piece.data)

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """Return numbers that change when a program writes or replaces a file; None where there are none."""
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self.root / name)
            return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns  # mtime can be set back
        return None

    def forget(self, name: str) -> bool:
        """Remove copies of a file that may be damaged or old. Return True if there were any."""
        return False

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of every file below a folder, by name."""
        sizes: dict[str, int] = {}
        for path, _, names in os.walk(self.root / folder):
            below = Path(path).relative_to(self.root)
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
                    sizes[(below / name).as_posix()] = os.stat(f"{path}/{name}").st_size
        return sizes

    def find(self, name: str) -> list[str]:
        """Return the folders below this one that hold a file called `name`, sorted, relative."""
        return sorted(str(path.parent.relative_to(self.root)) for path in self.root.glob(f"**/{name}"))

    def group(self, name: str) -> zarr.Group:
        """Return the zarr group in the folder `name`, to be read."""
        return zarr.open_group(self.root / name, mode="r")

    def reaching(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Return a context that turns a client library's errors into StoreError; local files have none."""
        return contextlib.nullcontext()


Files: TypeAlias = LocalFiles | RemoteFiles


def is_remote(path: str | Path) -> bool:
    """Return True if a path is a URL, such as s3://bucket/store."""
    return "://" in str(path)


def open_files(path: str | Path) -> Files:
    """Return the files below a folder or URL. Raises StoreError for a URL that cannot be opened."""
    return RemoteFiles(str(path)) if is_remote(path) else LocalFiles(Path(path))
