"""Tables 1 and 2 of the READ paper: methods trained here, then the paper's rows, over the tasks trained here."""

import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pandas as pd

from read_cache.errors import UserError
from read_cache.networks.saved import write_text
from read_cache.report import frames
from read_cache.report.costs import EQ4, digits, method_cost
from read_cache.report.page import Report, template
from read_cache.training.results import Result

TASKS = {
    "cola": "CoLA", "mnli": "MNLI", "qnli": "QNLI", "mrpc": "MRPC", "qqp": "QQP", "sst2": "SST-2", "stsb": "STS-B",
}  # fmt: skip
"""The paper's seven tasks, in the order of its columns, as it writes them."""
TableName = Literal["table1", "table2"]
NUMBERS = {"trainable, %": "parameters_percent", "power, kW": "power_kw", "energy, kWh": "energy_kwh"}
"""Columns before the scores, and their names in paper.toml. Table 2 has the first alone."""


@functools.cache
def paper() -> dict[str, Any]:
    """Return paper.toml: the rows of `table1` and `table2` as printed, and `rows`, the examples of GLUE's splits."""
    return tomllib.loads(Path(__file__).with_name("paper.toml").read_text(encoding="utf-8"))


def paper_table(name: TableName, results: Sequence[Result]) -> str:
    """Return a table of the paper from results, as Markdown. Of several stores of a task the last one counts.

    Table 2 takes the results of networks with a setting `recurrent` only. Raises UserError if there are none.
    """
    chosen = [result for result in results if name == "table1" or "recurrent" in result.config]
    if not chosen:
        raise UserError("no results of READ networks: Table 2 compares networks with and without recurrence")
    last = {(result.backbone, result.task): result.identity for result in chosen}
    report = Report([result for result in chosen if result.identity == last[result.backbone, result.task]])
    networks, trained = report.networks, set(report.networks["task"])
    tasks = [*(task for task in TASKS if task in trained), *sorted(trained - set(TASKS))]
    comparable = trained <= set(TASKS)
    rows = [here(report, *method) for method in networks.groupby(frames.METHOD, sort=False).groups]
    rows += [printed(row, tasks) for row in paper()[name]] if comparable else []
    columns = list(NUMBERS)[: None if name == "table1" else 1]
    table = pd.DataFrame(rows).reindex(
        columns=["method", "backbone", *columns, *tasks, *["average"] * (len(tasks) > 1)]
    )
    return template("tables.md.j2").render(
        name=name,
        table=table.rename(columns=TASKS),
        comparable=comparable,
        backbones={backbone.rpartition("/")[2] for backbone in networks["backbone"]},
        paper_backbones=[row["backbone"] for row in paper()[name]],
        partial=[task for task in tasks if is_partial(networks[networks["task"] == task].iloc[-1])],
        powers=report.sessions["p0"].dropna().unique(),
        without_extraction=sorted(set(networks["kind"]) - set(networks.loc[networks["extraction"].map(bool), "kind"])),
        notes=report.notes,
    )


def here(report: Report, backbone: str, kind: str) -> dict[str, Any]:
    """Return the row of a method that was trained here."""
    networks, chosen = (
        frame[(frame["backbone"] == backbone) & (frame["kind"] == kind)] for frame in (report.networks, report.chosen)
    )
    scores = report.wide_scores().set_index(frames.METHOD).T.to_dict().get((backbone, kind), {})
    cost = method_cost(report.sessions, networks["identity"], kind)
    numbers = (chosen["parameters_percent"].max(), cost[EQ4] / cost["time, s"] * 3600, cost[EQ4])
    return {"method": f"{kind}, here", "backbone": backbone, **zipped(numbers), **scores}


def printed(row: dict[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """Return a row of paper.toml; its average is that of the columns shown."""
    scores = [row["scores"][task] for task in tasks]
    numbers = [row.get(name, float("nan")) for name in NUMBERS.values()]
    texts = [f"{score:.2f}" for score in (*scores, fmean(scores))]
    named = dict(zip((*tasks, "average"), texts, strict=True))
    return {"method": f"{row['method']}, paper", "backbone": row["backbone"], **zipped(numbers), **named}


def zipped(numbers: Sequence[float]) -> dict[str, str | None]:
    """Return the cells of NUMBERS."""
    return dict(zip(NUMBERS, map(digits, numbers), strict=True))


def is_partial(network: pd.Series) -> bool:
    """Return True if a network was trained or tested on fewer examples than the paper's protocol has."""
    official = paper()["rows"].get(network["task"], {})
    return any(network["examples"].get(split, count) < count for split, count in official.items())


def write_table(name: TableName, results: Sequence[Result], out: Path) -> str:
    """Write a table to NAME.md in a folder, and return it. Raises UserError if it cannot be made or written."""
    text = paper_table(name, results)
    write_text(out / f"{name}.md", text)
    return text
