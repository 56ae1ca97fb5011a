"""Tables 1 and 2 of the paper as Markdown: the rows measured here, the paper's own, and what sets them apart."""

from collections.abc import Iterator, Sequence
from typing import Any

from read_cache.report.costs import COSTS, cost_rows, not_measured
from read_cache.report.glue import ReadRow, in_paper, partial_set
from read_cache.report.markdown import markdown_table, three_digits
from read_cache.report.paper import TASKS, PaperRow, Table, paper_rows
from read_cache.report.tables import SUMMARY, summary_rows

TITLES: dict[Table, str] = {
    "table1": "Table 1: READ, score and energy",
    "table2": "Table 2: READ with and without recurrency",
}


def glue_markdown(table: Table, rows: Sequence[ReadRow]) -> str:
    """The whole text: the table, what a reader must know, then of each row what was chosen and what it cost."""
    parts = [f"# {TITLES[table]}", scores_table(table, rows), *notes(table, rows)]
    for row in rows:
        parts += [f"## {row.name}: chosen on validation", markdown_table(SUMMARY, summary_rows(row.stores))]
        parts += [f"## {row.name}: time, memory, energy", markdown_table(COSTS, cost_rows(row.costs))]
        parts += [not_measured(row.cost)]
    return "\n\n".join(part for part in parts if part) + "\n"


def scores_table(table: Table, rows: Sequence[ReadRow]) -> str:
    """Rows measured here, then those of the paper, over the tasks of the former."""
    tasks = all_tasks(rows)
    energy = ("power, kW", "energy, kWh") if table == "table1" else ()
    partial = {store.task for row in rows for store in row.stores if partial_set(store)}
    names = [TASKS.get(task, task) + " †" * (task in partial) for task in tasks]
    columns = ["method", "backbone", "trainable, %", *energy, *names, "average"]
    lines: list[list[Any]] = []
    for row in rows:
        percent = " to ".join(f"{value:.2f}" for value in dict.fromkeys(row.parameters_percent)) or None
        spent = [three_digits(row.cost.power_kw), three_digits(row.cost.energy_kwh)] if energy else []
        scores = [row.scores.get(task) for task in tasks]
        lines.append([row.name, row.backbone, percent, *spent, *scores, row.average if row.tasks == tasks else None])
    if theirs := comparable(table, tasks):
        columns, lines = [*columns, "average as printed"], [[*line, None] for line in lines]
    for paper in theirs:
        known: list[Any] = [paper.name, paper.backbone, f"{paper.parameters_percent:g}"]
        known += [paper.power_kw, paper.energy_kwh] if energy else []
        lines.append([*known, *(paper.scores[task] for task in tasks), paper.mean(tasks), paper.average])
    return markdown_table(columns, lines)


def all_tasks(rows: Sequence[ReadRow]) -> list[str]:
    """The tasks of any row, in the order of the row that has most, then the others'."""
    return list(dict.fromkeys(task for row in sorted(rows, key=lambda row: -len(row.tasks)) for task in row.tasks))


def comparable(table: Table, tasks: Sequence[str]) -> list[PaperRow]:
    """The paper's rows where it has figures of all these tasks."""
    return paper_rows(table) if set(tasks) <= set(TASKS) else []


def notes(table: Table, rows: Sequence[ReadRow]) -> Iterator[str]:
    """What a reader must know to compare the rows."""
    tasks = all_tasks(rows)
    yield (
        "Scores are of the test split, times 100, as mean ± sample deviation over seeds, of the configuration that is "
        "best on validation; the deviation of an average is that of the seeds' averages."
    )
    for row in rows:
        if untested := [TASKS.get(task, task) for task in tasks if row.scores.get(task) is None]:
            yield f"{row.name} has no test score of {', '.join(untested)}, and so no average."
    if comparable(table, tasks):
        yield (
            "The average of the paper's rows is the mean of the columns shown; the last column is what the paper "
            "prints, which is no mean of its seven."
        )
        if absent := [name for task, name in TASKS.items() if task not in tasks]:
            yield f"Not trained here, and left out of the averages: {', '.join(absent)}."
        for backbone in dict.fromkeys(row.backbone for row in rows if not in_paper(row.backbone)):
            yield f"{backbone} is none of the paper's backbones: its rows and the paper's do not compare methods."
    else:
        yield "The paper has no figures of these tasks."
    partial = {store.task: partial_set(store) for row in rows for store in row.stores if partial_set(store)}
    if partial:
        yield f"† Partial sets, in rows: {'; '.join(f'{TASKS[task]} {sizes}' for task, sizes in partial.items())}."
    if table == "table1":
        yield (
            "Energy is the device's, by the paper's Eq. 4, of both stages and of every network that was tried; power "
            "is that over the wall time. The paper's figures are 'for every experiment', with p0 = 0.25 kW; whether "
            "its search is in them its text does not say."
        )
        for row in rows:
            if (p0 := row.cost.p0) is not None:
                yield f"{row.name}: {p0}."
    else:
        for row in rows:
            tried = sorted(len(store.configurations) for store in row.stores)
            told = f"{tried[0]}" if tried[0] == tried[-1] else f"{tried[0]} to {tried[-1]}"
            yield f"{row.name}: configurations tried on each task: {told}."
