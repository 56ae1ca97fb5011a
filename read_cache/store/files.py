"""Where a store's files lie: a folder, or any URL that fsspec opens. No rename is needed to commit anything."""

import dataclasses
import os
import uuid
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr

from read_cache.store.remote import RemoteFiles
from read_cache.store.residence import resident


class Files(Protocol):
    """What a store needs of the place it lies in. Names are relative, with slashes."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def read(self, name: str) -> bytes:
        """A small file's bytes. FileNotFoundError where there is none."""

    def write(self, name: str, data: bytes | np.ndarray) -> None:
        """Write a file at once: readers see all of it or none."""

    def settle(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one, which stays as it is; whether `data` is what it now holds."""

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""

    def map(self, name: str) -> np.ndarray:
        """A large file as [bytes] uint8, read as it is used where that is possible."""

    def stamp(self, name: str, image: np.ndarray) -> Hashable | None:
        """Equal for two images of a file that is the same and all in memory; None where that is not known."""

    def ranges(self, name: str, ranges: list[tuple[int, int]]) -> list[np.ndarray]:
        """Some byte ranges of a file; the rest of it is not read."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file below a folder, by name."""

    def find(self, name: str) -> Iterator[str]:
        """The folders below this one that hold a file called `name`, sorted, relative."""

    def group(self, name: str, mode: Any) -> zarr.Group:
        """The zarr group in the folder `name`."""


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL, such as s3://bucket/store."""
    return "://" in str(path)


def open_files(path: str | Path) -> Files:
    """The files below a folder or URL. Raises StoreError for a URL that cannot be opened."""
    return RemoteFiles(str(path)) if is_remote(path) else LocalFiles(Path(path))


@dataclasses.dataclass(frozen=True)
class LocalFiles:
    """Files in a folder."""

    root: Path

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes | np.ndarray, durable: bool = True) -> None:
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
        if not self.exists(name):  # a lock keeps everybody else out between the look and the write
            self.write(name, data, durable="/" not in name)  # hundreds of small files, each with a checksum
        return self.read(name) == data

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def map(self, name: str) -> np.ndarray:
        path = self.root / name
        if path.stat().st_size == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)

    def stamp(self, name: str, image: np.ndarray) -> Hashable | None:
        found = (self.root / name).stat()
        return (found.st_ino, found.st_size, found.st_mtime_ns) if resident(image) else None

    def ranges(self, name: str, ranges: list[tuple[int, int]]) -> list[np.ndarray]:
        mapped = self.map(name)
        return [mapped[start:end] for start, end in ranges]

    def sizes(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for path, _, names in os.walk(self.root / folder):
            below = Path(path).relative_to(self.root).as_posix()
            found |= {f"{below}/{name}": os.stat(f"{path}/{name}").st_size for name in names}
        return found

    def find(self, name: str) -> Iterator[str]:
        return iter(sorted(str(path.parent.relative_to(self.root)) for path in self.root.glob(f"**/{name}")))

    def group(self, name: str, mode: Any) -> zarr.Group:
        return zarr.open_group(self.root / name, mode=mode)
