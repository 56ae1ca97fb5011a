"""`read-cache report`: runs as one page."""

from pathlib import Path
from typing import Annotated

import typer

from read_cache.cli.output import print_json, print_table, say


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that read-cache train --out wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page.", show_default="report in the first RUN")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the tables as JSON.")] = False,
) -> None:
    """Write one HTML page: scores beside baselines, the choice on validation, learning curves, costs, failures."""
    from read_cache.report import frames
    from read_cache.report.page import Report
    from read_cache.report.stores import describe_stores

    results = frames.read_runs(runs)
    baselines, formats, gone = describe_stores(results)
    remarks = [f"No baselines of stores that are gone: {', '.join(gone)}."] if gone else []
    if begun := [f"{run / folder}" for run in runs for folder in frames.unfinished(run)]:
        remarks.append(f"In training, or interrupted: {', '.join(begun)}.")
    tables = Report(results, baselines, formats, remarks)
    page = tables.write(out or runs[0] / "report", ", ".join(run.resolve().name for run in runs))
    if json:
        print_json(tables.to_json())
    else:
        for table in (tables.wide_scores(), frames.shown(tables.chosen, frames.CHOSEN)):
            print_table(list(table), table.itertuples(index=False, name=None))
        for note in tables.notes:
            say(note)
    say(f"the page is {page}")
