"""Output of all commands: results go to stdout, everything else to stderr."""

import contextlib
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from read_cache.watch import Watch

stderr = Console(stderr=True, highlight=False, soft_wrap=True)
stdout = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 200)


def say(message: str) -> None:
    """Print a line for people on stderr."""
    stderr.print(message, markup=False)


def print_json(value: Any) -> None:
    """Print a result for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Show messages on stderr and, after the first step, a progress bar with elapsed and remaining time."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=stderr,
        speed_estimate_period=3600.0,  # seconds: a validation may take minutes without a step
    )
    row = bar.add_task("", total=None)

    def progress(name: str, done: int, total: int) -> None:
        bar.start()
        bar.update(row, description=name, completed=done, total=total or None)

    try:
        yield Watch(say, progress)
    finally:
        if bar.live.is_started:  # a bar that never started would print an empty line
            bar.stop()


LEGIBLE = 12
"""Columns of the terminal that a table leaves to a column of text; in a narrower terminal, each row is a paragraph."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print a table: text to the left, numbers to the right. A narrow terminal wraps text but not numbers.

    If text would get fewer than `LEGIBLE` columns, each row is a paragraph, in which each value has its name.
    """
    if title:  # not the table's own, which is wrapped to the table's width
        stdout.print(title)
    table, needed = Table(), 1
    rows = [[_cell(value) for value in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = all(_is_number(row[index]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
        width = max(cell_len(text) for text in (column, *(row[index] for row in rows)))
        needed += 3 + (width if numeric else min(width, LEGIBLE))
    if needed > stdout.width:
        for row in rows:
            named = [f"{name} {text}" for name, text in zip(columns, row, strict=True) if text != "-"]
            unbroken = ", ".join(text.replace(" ", "\xa0") for text in named)
            folded = textwrap.wrap(unbroken, stdout.width, subsequent_indent="    ", break_on_hyphens=False)
            stdout.print("\n".join(folded).replace("\xa0", " "))
        return
    for row in rows:
        table.add_row(*row)
    stdout.print(table)


def _cell(value: Any) -> str:
    if value is None or value != value:  # pandas has NaN where a value is missing
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "", 1).replace("-", "", 1).replace("%", "").isdigit()
