"""Tables 1 and 2 of the READ paper: methods trained here, then the paper's rows, over the tasks trained here."""

import dataclasses
import functools
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from read_cache.errors import UserError
from read_cache.networks.saved import writing
from read_cache.report import frames
from read_cache.report.costs import EQ4, cost_table, digits, method_cost
from read_cache.report.page import Report, template
from read_cache.training.results import Result

TASKS = {
    "cola": "CoLA", "mnli": "MNLI", "qnli": "QNLI", "mrpc": "MRPC", "qqp": "QQP", "sst2": "SST-2", "stsb": "STS-B",
}  # fmt: skip
"""The paper's seven tasks, in the order of its columns, as it writes them."""
TableName = Literal["table1", "table2"]
TITLES = {
    "table1": "Table 1: score and energy",
    "table2": "Table 2: READ with and without recurrency",
}
NUMBERS = {"trainable, %": "parameters_percent", "power, kW": "power_kw", "energy, kWh": "energy_kwh"}


@functools.cache
def paper() -> dict[str, Any]:
    """Return paper.toml: the rows of `table1` and `table2` as printed, and `rows`, the examples of GLUE's splits."""
    return tomllib.loads(Path(__file__).with_name("paper.toml").read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table of the paper from results. Table 2 takes results of networks with a setting `recurrent` only.

    Raises UserError if there are none, or if a task was trained on two stores of one backbone.
    """

    name: TableName
    results: Sequence[Result]

    @functools.cached_property
    def report(self) -> Report:
        """The results as data frames."""
        results = [result for result in self.results if self.name == "table1" or "recurrent" in result.config]
        if not results:
            raise UserError("no results of READ networks: Table 2 compares networks with and without recurrency")
        report = Report(results)
        for task, stores in report.networks.groupby("task")[["title", "store"]]:
            if set(stores["title"]) != {task}:
                places = " and ".join(stores["store"].unique())
                raise UserError(f"{task} was trained on several stores ({places}): give the runs on one of them")
        return report

    @property
    def tasks(self) -> list[str]:
        """Tasks of the results, in the order of the paper's columns, then by name."""
        tasks = sorted(set(self.report.networks["task"]))
        return sorted(tasks, key=lambda task: list(TASKS).index(task) if task in TASKS else len(TASKS))

    @property
    def comparable(self) -> bool:
        """True if the paper has figures of all tasks."""
        return set(self.tasks) <= set(TASKS)

    @functools.cached_property
    def rows(self) -> pd.DataFrame:
        """One row a method: figures as numbers, in the columns TASK and "TASK deviation"."""
        rows, columns = [], [*self.tasks, *["average"] * (len(self.tasks) > 1)]
        for (backbone, kind), networks in self.report.networks.groupby(frames.METHOD, sort=False):
            chosen = self.report.chosen.query("backbone == @backbone and kind == @kind")["parameters_percent"]
            scores = self.report.scores.query("backbone == @backbone and kind == @kind").set_index("column")
            cost = method_cost(self.report.sessions, networks["identity"], kind)
            row: dict[str, Any] = {"method": f"{kind}, here", "backbone": backbone, "trainable, %": chosen.max()}
            row |= {"power, kW": cost[EQ4] / cost["time, s"] * 3600, "energy, kWh": cost[EQ4]}
            for column, score in scores.reindex(columns).iterrows():
                row |= {column: score["mean"], f"{column} deviation": score["deviation"]}
            rows.append(row)
        for printed in paper()[self.name] if self.comparable else ():
            row = {"method": f"{printed['method']}, paper", "backbone": printed["backbone"]}
            row |= {column: printed.get(field) for column, field in NUMBERS.items()}
            row |= {task: printed["scores"][task] for task in self.tasks}
            row |= {"average": pd.Series(row)[self.tasks].mean()} if len(self.tasks) > 1 else {}
            rows.append(row | {"average as printed": printed["average"]})
        energy = [] if self.name == "table1" else ["power, kW", "energy, kWh"]
        return pd.DataFrame(rows).astype(dict.fromkeys(NUMBERS, float)).drop(columns=energy)

    @property
    def partial(self) -> dict[str, str]:
        """Tasks with fewer examples than under the paper's protocol, and which splits."""
        tasks = {}
        for row in self.report.networks.drop_duplicates("task", keep="last").itertuples():
            official = paper()["rows"].get(row.task, {})
            short = {split: count for split, count in official.items() if row.examples.get(split, count) < count}
            if short:
                tasks[row.task] = ", ".join(f"{name} {row.examples[name]:,} of {n:,}" for name, n in short.items())
        return tasks

    def notes(self) -> Iterator[str]:
        """Yield what a reader must know to compare the rows."""
        yield (
            "Scores are of the test split, times 100, as mean ± sample deviation over seeds, of the configuration that "
            "is best on validation. An average is the plain mean of the columns shown, given only for a method with a "
            "score of every task; its deviation is that of the seeds' averages."
        )
        if self.comparable:
            yield "The averages that the paper prints are not the means of its rows, which stand beside them."
            if absent := [name for task, name in TASKS.items() if task not in self.tasks]:
                yield f"Not trained here, and not in the averages: {', '.join(absent)}."
            theirs = {row["backbone"] for row in paper()[self.name]}
            for backbone in self.report.networks["backbone"].unique():
                if backbone.rpartition("/")[2] not in theirs:
                    yield f"{backbone} is not a backbone of the paper: its rows and the paper's do not compare methods."
        else:
            yield "The paper has no figures of these tasks."
        if self.partial:
            sizes = "; ".join(f"{TASKS[task]} {sizes}" for task, sizes in self.partial.items())
            yield f"† Partial sets, in rows: {sizes}."
        if self.name == "table1":
            powers = ", ".join(f"{watts:g} W" for watts in self.report.sessions["p0"].dropna().unique())
            yield (
                "Energy is the device's, by the paper's Eq. 4"
                f"{f' with p0 = {powers}' * bool(powers)}, of extraction and of every network that was tried; power is "
                "that over the wall time. The paper has p0 = 250 W, and does not say whether its search is counted."
            )
            networks = self.report.networks
            if alone := set(networks["kind"]) - set(networks.loc[networks["extraction"].map(bool), "kind"]):
                yield f"No readings of an extraction, so the energy is that of training: {', '.join(sorted(alone))}."
        yield from self.report.notes

    def markdown(self) -> str:
        """Return the table with its notes, the chosen configurations and the costs."""
        text = self.rows[["method", "backbone"]].copy()
        for column in self.rows.columns[2:]:
            if f"{column} deviation" in self.rows:
                pairs = zip(self.rows[column], self.rows[f"{column} deviation"], strict=True)
                text[TASKS.get(column, column) + " †" * (column in self.partial)] = [
                    frames.spread(*pair) for pair in pairs
                ]
            elif not column.endswith(" deviation"):
                text[column] = self.rows[column].map(digits)
        return template("tables.md.j2").render(
            title=TITLES[self.name],
            table=text,
            notes=list(self.notes()),
            chosen=frames.shown(self.report.chosen, frames.CHOSEN),
            costs=cost_table(self.report.sessions),
        )

    def write(self, out: Path) -> str:
        """Write NAME.md and NAME.csv to a folder; return the Markdown. Raises UserError if they cannot be written."""
        text = self.markdown()
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{self.name}.md").write_text(text, encoding="utf-8")
            self.rows.to_csv(out / f"{self.name}.csv", index=False)
        return text
