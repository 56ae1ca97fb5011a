"""`read-cache report`: runs as one page. `read-cache tables`, `figures`: the tables and figures of the READ paper."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from read_cache.cli.output import print_table, say, watching

RunsArgument = Annotated[list[Path], typer.Argument(help="Run folders, as train and finetune write them.")]


def report(
    runs: RunsArgument,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page. [default: report in the folder of the first run]")
    ] = None,
) -> None:
    """Write the results of runs as one HTML page.

    The page shows the network that is best on validation for each task, test metrics beside baselines, learning curves,
    metrics by learning rate and by bytes, costs and failures.
    """
    from read_cache.report import frames
    from read_cache.report.page import Report

    tables = Report.of_runs(runs)
    page = tables.write(out or runs[0] / "report", ", ".join(run.resolve().name for run in runs))
    for table in (tables.wide_scores(), frames.shown(tables.chosen, frames.CHOSEN)):
        print_table(list(table), table.itertuples(index=False, name=None))
    for note in tables.notes:
        say(note)
    say(f"the page is {page}")


def tables(
    table: Annotated[
        Literal["table1", "table2"], typer.Argument(help="table1: score and energy; table2: without recurrence.")
    ],
    runs: RunsArgument,
    out: Annotated[Path, typer.Option(help="Folder of TABLE.md.")] = Path(),
) -> None:
    """Print results beside the tables of the READ paper.

    The output is Markdown: a row for each method that was trained here, then the paper's rows.
    """
    from read_cache.report.frames import read_runs
    from read_cache.report.tables import write_table

    print(write_table(table, read_runs(runs), out), end="")
    say(f"the table is in {out / table}.md")


def figures(
    comparisons: Annotated[
        list[Path], typer.Argument(help="Folders of comparisons, one for each task. [default: no Figures 1 and 2]")
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder of figures.md, the pictures and their numbers.")] = Path("paper"),
) -> None:
    """Draw Figures 1, 2, 5 and 6 of the READ paper, with its Table 3.

    Figures 1 and 2 come from comparisons. Memory and operations at the sizes of T5-small, base, large and 3B are
    computed, without their weights.
    """
    from read_cache.comparison.figures import write_figures

    with watching() as watch:
        say(f"the page is {write_figures(comparisons, out, watch)}")
