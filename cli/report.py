"""`read-cache report`: a run as one page."""

from pathlib import Path
from typing import Annotated

import typer

from read_cache.cli.output import print_json, print_table, say


def report(
    run: Annotated[Path, typer.Argument(help="A folder that read-cache train --out wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the page and its pictures go.", show_default="RUN/report")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the tables as JSON.")] = False,
) -> None:
    """A run as one HTML page with learning curves, the choice on validation, and its test metric over seeds."""
    from read_cache.report.tables import SUMMARY, report_json, summary_rows
    from read_cache.report.write import read_report, write_report

    found = read_report(run)
    page = write_report(run, out or run / "report", found)
    if json:
        print_json(report_json(found.stores, found.unfinished))
    else:
        print_table(SUMMARY, summary_rows(found.stores), "chosen on validation; mean ± deviation over seeds, times 100")
        for store in found.stores:
            if store.passed_over:
                say(f"{store.title}: {store.passed_over.label} is better, but not compared: it has fewer seeds")
        for folder in found.unfinished:
            say(f"{folder} has no results yet: it is in training, or was stopped")
    say(f"the page is {page}")
