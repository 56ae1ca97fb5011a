"""`read-cache tables`: Tables 1 and 2 of the READ paper from runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from read_cache.cli.output import say


def tables(
    table: Annotated[
        Literal["table1", "table2"], typer.Argument(help="table1: score and energy; table2: without recurrency.")
    ],
    runs: Annotated[list[Path], typer.Argument(help="Folders that read-cache train --out wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of TABLE.md, TABLE.csv and TABLE.json.")] = Path(),
) -> None:
    """Print the methods that were trained here beside the paper's rows, as Markdown."""
    from read_cache.report.frames import read_runs
    from read_cache.report.tables import PaperTable

    print(PaperTable(table, read_runs(runs)).write(out), end="")
    say(f"the table is {out / table}.md, .csv and .json")
