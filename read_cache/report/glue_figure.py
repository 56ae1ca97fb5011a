"""The picture beside a table: scores by task, and their average against parameters and against energy."""

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from read_cache.meters.readings import Missing, Quantity
from read_cache.report.aggregate import Spread
from read_cache.report.glue import ReadRow
from read_cache.report.glue_tables import all_tasks, comparable
from read_cache.report.paper import TASKS, PaperRow, Table
from read_cache.report.style import COLOURS, FAINT, MARKERS, legend_below, styled

THEIRS = "+x*Xv^<>"
"""Markers of the paper's methods."""
Point = tuple[str, float, Spread]
"""A method, where it lies from left to right, and its average."""


@styled()
def glue_figure(table: Table, rows: Sequence[ReadRow]) -> Figure:
    """As in Figure 2 of the paper, whose methods are grey; a panel that would hold one point alone is left out."""
    tasks = all_tasks(rows)
    theirs = comparable(table, tasks)
    looks = looks_of(rows, theirs)
    whole = [(row, row.average) for row in rows if row.tasks == tasks and row.average]
    averages = [(paper, Spread(paper.mean(tasks), None, 1)) for paper in theirs]
    panels = {
        "trainable parameters, per cent of the backbone (log scale)": [
            *((row.name, row.parameters_percent[-1], average) for row, average in whole),
            *((paper.name, paper.parameters_percent, average) for paper, average in averages),
        ],
        "device energy by Eq. 4, kWh (log scale)": [
            *measured((row.name, row.cost.energy_kwh, average) for row, average in whole),
            *((paper.name, paper.energy_kwh, average) for paper, average in averages if paper.energy_kwh),
        ],
    }
    shown = {label: points for label, points in panels.items() if len(points) > 1}
    figure = Figure(figsize=(max(5.5, 1.1 * len(tasks)) + 4.4 * len(shown), 4.4), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(shown), squeeze=False).flat
    draw_tasks(first, rows, [paper for paper in theirs if paper.method.startswith("READ")], tasks, looks)
    for axes, (label, points) in zip(others, shown.items(), strict=True):
        draw_points(axes, points, looks)
        axes.set(xlabel=label, ylabel=f"average over {len(tasks)} tasks")
    legend_below(figure, 4)
    return figure


def looks_of(rows: Sequence[ReadRow], theirs: Sequence[PaperRow]) -> dict[str, dict[str, Any]]:
    """One look a method, the same in every panel."""
    ours = {
        row.name: {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "zorder": 3}
        for number, row in enumerate(rows)
    }
    return ours | {
        paper.name: {"color": FAINT, "marker": marker} for paper, marker in zip(theirs, THEIRS, strict=False)
    }


def measured(points: Iterable[tuple[str, Quantity, Spread]]) -> list[Point]:
    """Those whose place is known."""
    return [(name, x, average) for name, x, average in points if not isinstance(x, Missing)]


def draw_tasks(
    axes: Axes,
    rows: Sequence[ReadRow],
    theirs: Sequence[PaperRow],
    tasks: Sequence[str],
    looks: dict[str, dict[str, Any]],
) -> None:
    """A dot a task with its deviation over seeds, rows side by side; the paper's READ behind them."""
    for number, row in enumerate(rows):
        shown = [(place, score) for place, task in enumerate(tasks) if (score := row.scores.get(task))]
        where = [place + (number + 0.5) / len(rows) / 2 - 0.25 for place, _ in shown]
        heights, deviations = [score.mean for _, score in shown], [score.deviation or 0.0 for _, score in shown]
        axes.errorbar(where, heights, deviations, linestyle="", capsize=3, label=row.name, **looks[row.name])
    for paper in theirs:
        heights = [paper.scores[task] for task in tasks]
        axes.plot(range(len(tasks)), heights, linestyle="", label=paper.name, **looks[paper.name])
    names = [TASKS.get(task, task.replace("-", "-\n")) for task in tasks]  # long ones would run into each other
    axes.set_xticks(range(len(tasks)), names)
    axes.set(ylabel="test metric, × 100", xlim=(-0.6, len(tasks) - 0.4))


def draw_points(axes: Axes, points: Sequence[Point], looks: dict[str, dict[str, Any]]) -> None:
    """A dot a method."""
    for name, x, average in points:
        deviation = [average.deviation] if average.deviation else None
        axes.errorbar([x], [average.mean], deviation, linestyle="", capsize=3, label=name, **looks[name])
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.1)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
