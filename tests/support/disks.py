"""Small file systems that fill up."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.processes import contents

PAGE = 4096


class Disk:
    """A file system of so many bytes; skips the test where mounting is not permitted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, size: int, how: str = "remount,") -> None:
        """Make it larger or smaller; what it holds stays."""
        words = ["mount", "-t", "tmpfs", "-o", f"{how}size={-(-size // PAGE) * PAGE}", "tmpfs", str(self.folder)]
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no small disk to fill: {' '.join(words)} is not permitted ({error})")


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A disk of one page, mounted on a folder that is made."""
    folder.mkdir()
    made = Disk(folder)
    made.resize(PAGE, "")
    try:
        yield made
    finally:  # a checkpoint that was loaded may still be mapped
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def taken(folder: Path) -> int:
    """Bytes that files take on such a disk, which gives out whole pages."""
    return sum(-(-len(data) // PAGE) * PAGE for data in contents(folder).values())
