"""Lines of text as rows of a task: from a file, plain or compressed, or from standard input."""

import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from read_cache.errors import UserError
from read_cache.tasks import Task

Line = tuple[int, str]
"""(number from 1, content); `parse_line` says what a line may hold."""


@contextlib.contextmanager
def open_lines(path: Path) -> Iterator[tuple[BinaryIO, Iterator[Line]]]:
    """Yield a file, whose position shows the progress, and its lines; a name that ends in .gz is decompressed."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    with raw:
        source: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        yield raw, read_lines(source, str(path))


def read_lines(source: BinaryIO, where: str) -> Iterator[Line]:
    """Yield the lines that are not empty, one at a time. Raises UserError, which names the file as `where`."""
    number = 0
    try:
        for number, raw in enumerate(source, start=1):
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            if line.strip():
                yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}, line {number + 1}, cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where}, line {number}, cannot be read: {error}") from error


def parse_line(line: str, task: Task, number: int) -> dict[str, Any]:
    """Return the row of a line: a JSON object with the task's fields, or their texts separated by tabs."""
    fields, line = task.text_fields, line.rstrip("\r\n")
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"line {number} starts like a JSON object but is not one: {error}") from error
        if missing := [field for field in fields if field not in row]:
            raise UserError(f"line {number} has no {missing[0]!r}; task {task.name} needs {', '.join(fields)}")
        return row
    values = line.split("\t")
    if len(values) != len(fields):
        raise UserError(
            f"line {number} has {len(values)} texts, task {task.name} needs {len(fields)} ({', '.join(fields)}): "
            "separate them by a tab, or give a JSON object"
        )
    return dict(zip(fields, values, strict=True))
