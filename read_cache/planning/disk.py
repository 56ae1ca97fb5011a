"""How fast bytes are where the store will lie: written for good, read back, mapped and checked."""

import mmap
import os
import tempfile
import time
from pathlib import Path

import crc32c
import numpy as np

from read_cache.planning.machine import Record
from read_cache.planning.timing import clock, median_seconds
from read_cache.store.files import LocalFiles

FILES, FILE_BYTES = 24, 12 << 20
"""As parts of T5-base have; so many that the page cache has to find new memory for them, as a store does."""


def nearest_folder(path: Path) -> Path:
    """The folder in which `path` is or would be made."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def measure_disk(folder: Path) -> Record:
    """Bytes a second: check, map (from the page cache), write and read; and the write's seconds of processor a byte.

    read is None where the system cannot be made to forget a file. Raises OSError where the folder cannot be written.
    """
    image = np.random.default_rng(0).integers(0, 256, FILE_BYTES, np.uint8)
    check = median_seconds(lambda: crc32c.crc32c(image.data))
    total = FILES * FILE_BYTES
    with tempfile.TemporaryDirectory(dir=folder, prefix=".read-cache-plan-") as temporary:
        files, names = LocalFiles(Path(temporary)), [f"file-{number}" for number in range(FILES)]

        def write() -> None:
            for name in names:
                files.write(name, image)

        busy = time.thread_time()
        written = clock(write)
        busy = time.thread_time() - busy
        mapped = median_seconds(lambda: [int(files.map(name)[:: mmap.PAGESIZE].sum()) for name in names])
        read = _read_seconds([files.root / name for name in names])
    return {
        "check": FILE_BYTES / check,
        "map": total / mapped,
        "write": total / written,
        "write_processor_seconds": busy / total,
        "read": total / read if read else None,
    }


def _read_seconds(paths: list[Path]) -> float | None:
    """Of files that the page cache has been asked to drop."""
    if not hasattr(os, "posix_fadvise"):
        return None
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return clock(lambda: [path.read_bytes() for path in paths])
