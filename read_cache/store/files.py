"""The files of a store: in a folder, or behind any URL that fsspec opens. Committing needs no rename."""

import contextlib
import ctypes
import dataclasses
import mmap
import os
import sys
import uuid
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr

from read_cache.store.remote import RemoteFiles

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclasses.dataclass(frozen=True)
class LocalFiles:
    """Files in a folder. Names are relative, with slashes."""

    root: Path

    def exists(self, name: str) -> bool:
        """Return True if the file exists."""
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
        """Remove a file if it exists."""
        (self.root / name).unlink(missing_ok=True)

    def map(self, name: str) -> np.ndarray:
        """Return a large file as [bytes] uint8, memory-mapped where that is possible."""
        path = self.root / name
        if path.stat().st_size == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)

    def stamp(self, name: str, image: np.ndarray) -> Hashable | None:
        """Return a value that is equal for two images of an unchanged file that is all in memory; None if unknown."""
        stat = (self.root / name).stat()
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns) if resident(image) else None

    def ranges(self, name: str, ranges: list[tuple[int, int]]) -> list[np.ndarray]:
        """Return some byte ranges of a file; the rest of it is not read."""
        mapped = self.map(name)
        return [mapped[start:end] for start, end in ranges]

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of every file below a folder, by name."""
        sizes: dict[str, int] = {}
        for path, _, names in os.walk(self.root / folder):
            below = Path(path).relative_to(self.root).as_posix()
            sizes |= {f"{below}/{name}": os.stat(f"{path}/{name}").st_size for name in names}
        return sizes

    def find(self, name: str) -> list[str]:
        """Return the folders below this one that hold a file called `name`, sorted, relative."""
        return sorted(str(path.parent.relative_to(self.root)) for path in self.root.glob(f"**/{name}"))

    def group(self, name: str, mode: Any) -> zarr.Group:
        """Return the zarr group in the folder `name`."""
        return zarr.open_group(self.root / name, mode=mode)

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


def resident(image: np.ndarray) -> bool:
    """Return True if every page of a mapped file, [bytes] uint8, is in the page cache; False if that is unknown."""
    if _LIBC is None:
        return False
    pages = np.empty(-(-len(image) // mmap.PAGESIZE), np.uint8)
    address, length = ctypes.c_void_p(image.ctypes.data), ctypes.c_size_t(len(image))
    return _LIBC.mincore(address, length, ctypes.c_void_p(pages.ctypes.data)) == 0 and bool((pages & 1).all())
