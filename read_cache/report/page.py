"""The page: scores by kind and task, the choice on validation, then each store with its pictures and failures."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import pandas as pd

from read_cache.errors import UserError
from read_cache.networks.saved import write_text
from read_cache.report import frames
from read_cache.report.costs import cost_table, not_measured, session_frame
from read_cache.report.frames import Baselines
from read_cache.report.pictures import curves_figure, image
from read_cache.scoring.evaluator import baselines as compute_baselines
from read_cache.store.reader import StoreReader
from read_cache.training.results import Result, StopReason


class Report:
    """Tables of the results of one or several runs."""

    def __init__(
        self, results: Sequence[Result], baselines: Baselines = MappingProxyType({}), remarks: Sequence[str] = ()
    ) -> None:
        """`baselines` are shown beside the networks; `remarks` are sentences that are added to the notes."""
        self.networks, self.remarks = frames.network_frame(results), remarks
        self.configurations = frames.configuration_frame(self.networks)
        self.chosen = frames.chosen_frame(self.configurations)
        self.scores = frames.score_frame(self.networks, self.chosen, baselines)
        self.sessions = session_frame(self.networks)

    @classmethod
    def of_runs(cls, runs: Sequence[Path]) -> "Report":
        """Return the report of run folders, with baselines of the stores that still exist.

        Raises UserError for a folder that is absent or has no results.
        """
        results, remarks = frames.read_runs(runs), []
        baselines, gone = store_baselines(results)
        if gone:
            remarks.append(f"These stores no longer exist, so their baselines are missing: {', '.join(gone)}.")
        if begun := [f"{run / folder}" for run in runs for folder in frames.unfinished(run)]:
            remarks.append(f"In training, or interrupted: {', '.join(begun)}.")
        return cls(results, baselines, remarks)

    @property
    def failures(self) -> pd.DataFrame:
        """Networks that diverged or ended no epoch, with the reason."""
        failed = (self.networks["stop"] == StopReason.diverged) | self.networks["validation"].isna()
        names = {"title": "task", "kind": "kind", "network": "network", "epochs": "epochs", "stop_detail": "reason"}
        return self.networks.loc[failed, [*names, "stop"]].rename(columns=names)

    @property
    def notes(self) -> list[str]:
        """Sentences about what is missing or not compared."""
        notes = [*self.remarks, not_measured(self.sessions)]
        finished = self.networks.groupby(["title", *frames.METHOD], sort=False)["validation"].count()
        notes += [f"{', '.join(key)}: no network finished an epoch." for key in finished.index[finished == 0]]
        untested = self.chosen.loc[self.chosen["test"].isna(), "title"].unique()
        notes.append(f"No test metric: {', '.join(untested)}." if len(untested) else "")
        return [note for note in notes if note]

    def wide_scores(self) -> pd.DataFrame:
        """Return test metrics as text: one row a method, one column a task, and their average."""
        texts = [frames.spread(*pair) for pair in zip(self.scores["mean"], self.scores["deviation"], strict=True)]
        wide = self.scores.assign(text=texts).pivot_table(
            index=frames.METHOD, columns="column", values="text", aggfunc="first", sort=False
        )
        titles = [*self.networks["title"].unique(), "average"]
        return wide.reindex(columns=[title for title in titles if title in wide]).reset_index()

    def html(self, title: str) -> str:
        """Return one HTML document that needs no other file. The same results give the same text."""
        return template("page.html.j2").render(
            title=title,
            networks=len(self.networks),
            scores=self.wide_scores(),
            chosen=frames.shown(self.chosen, frames.CHOSEN),
            sections=[self._section(rows) for _, rows in self.networks.groupby("identity", sort=False)],
            failures=self.failures,
            costs=cost_table(self.sessions),
            notes=self.notes,
        )

    def _section(self, rows: pd.DataFrame) -> dict[str, Any]:
        first = rows.iloc[0]
        configurations = self.configurations[self.configurations["identity"] == first.identity]
        return {
            "title": f"{first.title} · {first.backbone}",
            "anchor": first.identity,
            "facts": f"Metric: {first.metric.replace('_', ' ')}, times 100. Store: {first.store}.",
            "curves": [image(curves_figure(part)) for _, part in rows.groupby("loss_unit", sort=False)],
            "configurations": frames.shown(configurations, frames.EVERY),
        }

    def write(self, out: Path, title: str) -> Path:
        """Write `out`/index.html and return its path. Raises UserError if it cannot be written."""
        write_text(out / "index.html", self.html(title))
        return out / "index.html"


def store_baselines(results: Sequence[Result]) -> tuple[Baselines, list[str]]:
    """Return (baselines by task, from its first store; paths of stores that no longer exist)."""
    by_task, gone = {}, []
    for result in {result.identity: result for result in results}.values():
        try:
            store = StoreReader(result.store)
        except UserError:
            store = None
        if store is None or store.manifest.identity != result.identity:
            gone.append(result.store)
        elif result.task not in by_task:
            by_task[result.task] = compute_baselines(store)
    return by_task, gone


def template(name: str) -> jinja2.Template:
    """Return a template of this folder. Values in HTML are escaped, and bars in Markdown's tables."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    environment.tests["numeric"] = lambda text: re.fullmatch(r"[–±\d.,\s-]*", text) is not None
    return environment.get_template(name)


def cell(value: Any) -> str:
    """Return the text of a table's cell; a missing value is a dash."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
