"""`read-cache tables`: Tables 1 and 2 of the paper from runs, as Markdown and a picture."""

from pathlib import Path
from typing import Annotated

import typer

from read_cache.cli.output import say
from read_cache.report.paper import Table


def tables(
    table: Annotated[Table, typer.Argument(help="table1: score and energy; table2: without recurrency.")],
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders of read-cache train, or files of what its --json printed.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where TABLE.md and TABLE.png go.")] = Path(),
) -> None:
    """Rows for READ as it was trained here, beside the paper's own."""
    from read_cache.networks.saved import writing
    from read_cache.report.glue import read_found, read_rows
    from read_cache.report.glue_figure import glue_figure
    from read_cache.report.glue_tables import glue_markdown
    from read_cache.report.style import png

    rows = read_rows(read_found(runs or []))
    text = glue_markdown(table, rows)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{table}.png").write_bytes(png(glue_figure(table, rows)))
        (out / f"{table}.md").write_text(text, encoding="utf-8")
    print(text, end="")
    say(f"the table is {out / table}.md, its picture {out / table}.png")
