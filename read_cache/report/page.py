"""The page: the chosen networks, scores by kind and task, each store with its pictures, costs, failures and notes."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import pandas as pd
from rich.filesize import decimal

from read_cache.errors import UserError
from read_cache.loader.batches import split_size
from read_cache.networks.base import NETWORKS
from read_cache.networks.saved import write_text
from read_cache.report import frames
from read_cache.report.costs import cost_table, not_measured, session_frame
from read_cache.report.frames import Baselines
from read_cache.report.pictures import NAMED, best_means, curves_figure, images, tried_figure
from read_cache.report.summary import choice, counted
from read_cache.scoring.evaluator import baselines as compute_baselines
from read_cache.settings import parse
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import needed_collator
from read_cache.training.results import Result, StopReason

NONE: Mapping[Any, Any] = MappingProxyType({})


class Report:
    """Tables of the results of one or several runs."""

    def __init__(
        self,
        results: Sequence[Result],
        baselines: Baselines = NONE,
        remarks: Sequence[str] = (),
        stores: Mapping[str, StoreReader] = NONE,
    ) -> None:
        """`baselines` are shown beside the networks; `remarks` are sentences that are added to the notes.

        `stores`, by identity, tell how many bytes a network reads.
        """
        self.networks, self.baselines, self.remarks = frames.network_frame(results), baselines, remarks
        self.networks["row_bytes"] = read_bytes(list(self.networks["result"]), stores)
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
        stores, baselines, gone = open_stores(results)
        if gone:
            remarks.append(f"These stores are absent or damaged, so their baselines are missing: {', '.join(gone)}.")
        if begun := [f"{run / folder}" for run in runs for folder in frames.unfinished(run)]:
            remarks.append(f"In training, or interrupted: {', '.join(begun)}.")
        return cls(results, baselines, remarks, stores)

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
        sections = [self._section(rows) for _, rows in self.networks.groupby("identity", sort=False)]
        return template("page.html.j2").render(
            title=title,
            counts=f"{counted(len(self.networks), 'network')} on {counted(len(sections), 'store')}",
            scores=self.wide_scores(),
            chosen=frames.shown(self.chosen, frames.CHOSEN),
            sections=sections,
            failures=self.failures,
            costs=cost_table(self.sessions),
            notes=self.notes,
        )

    def _section(self, rows: pd.DataFrame) -> dict[str, Any]:
        first = rows.iloc[0]
        configurations, sessions = (
            frame[frame["identity"] == first.identity] for frame in (self.configurations, self.sessions)
        )
        baselines = self.baselines.get(first.identity, {})
        return {
            "title": f"{first.title} · {first.backbone}",
            "anchor": first.identity,
            "facts": f"Metric: {first.metric.replace('_', ' ')}, times 100. Store: {first.store}.",
            "choice": choice(rows, configurations, sessions, baselines) if configurations["seeds"].any() else None,
            "curves": [curves(part) for _, part in rows.groupby("loss_unit", sort=False)],
            "tried": tried(rows),
            "configurations": frames.shown(configurations, frames.EVERY),
        }

    def write(self, out: Path, title: str) -> Path:
        """Write `out`/index.html and return its path. Raises UserError if it cannot be written."""
        write_text(out / "index.html", self.html(title))
        return out / "index.html"


def curves(networks: pd.DataFrame) -> dict[str, Any]:
    """Return the picture of learning curves, with its caption and a text that stands for it."""
    ended = frames.best_first(networks.dropna(subset="validation"))
    named = f", {NAMED} of them named" if len(networks) > NAMED else ""
    bests = [
        f"{one.network} {one.validation:.2f} in epoch {one.best_epoch} of {one.epochs}"
        for one in ended.drop_duplicates("kind").itertuples()
    ]
    return {
        "images": images(partial(curves_figure, networks)),
        "caption": f"{counted(len(networks), 'network')}{named}; markers at the best epochs.",
        "alt": f"Training loss, validation loss and validation metric by epoch of {counted(len(networks), 'network')}. "
        f"Best validation metric of each kind: {'; '.join(bests) or 'none'}.",
    }


def tried(networks: pd.DataFrame) -> dict[str, Any]:
    """Return the picture of what was tried, with its caption and a text that stands for it."""
    bests = []
    for kind, rows in networks.groupby("kind", sort=False):
        means = best_means(rows, "learning_rate")
        best = f"best mean {means.max():.2f} at {means.idxmax():g}" if len(means) else "no metric"
        size = decimal(rows["weight_bytes"].min())
        bests.append(f"{kind}, {counted(rows['learning_rate'].nunique(), 'learning rate')}, {size} and more: {best}")
    return {
        "images": images(partial(tried_figure, networks)),
        "caption": "A dot is a network, a cross one that ended no epoch. Lines join the best means over seeds at each "
        "learning rate, and by bytes those that fewer bytes do not reach.",
        "alt": f"Validation metric of each kind by learning rate, bytes of weights and bytes read. {'; '.join(bests)}.",
    }


def open_stores(results: Iterable[Result]) -> tuple[dict[str, StoreReader], Baselines, list[str]]:
    """Return (the stores of some results, their baselines, both by identity; paths of absent or damaged stores)."""
    stores, baselines, gone = {}, {}, []
    for identity, path in {result.identity: result.store for result in results}.items():
        with contextlib.suppress(UserError):
            store = StoreReader(path)
            if store.manifest.identity == identity:
                store.split("train")  # that `read_bytes` opens
                stores[identity], baselines[identity] = store, compute_baselines(store)
                continue
        gone.append(path)
    return stores, baselines, gone


def read_bytes(results: Sequence[Result], stores: Mapping[str, StoreReader]) -> list[float]:
    """Return the stored bytes that each network reads of a training row; NaN for a live method or an absent store."""
    splits = {identity: store.split("train") for identity, store in stores.items()}
    keys, sizes = [(result.identity, result.kind, result.configuration) for result in results], {}
    for key, result in dict(zip(keys, results, strict=True)).items():
        sizes[key] = float("nan")
        if result.identity in splits and result.kind in NETWORKS:
            kind, split = NETWORKS[result.kind], splits[result.identity]
            with contextlib.suppress(UserError):  # settings of another version
                settings = parse(kind.Config, result.config, "settings")
                collator = needed_collator(stores[result.identity], [(kind, settings)])
                sizes[key] = split_size(split.manifest, "train", collator).whole / split.examples
    return [sizes[key] for key in keys]


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
    environment.filters["number_columns"] = number_columns
    return environment.get_template(name)


def number_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns whose cells are all numbers, with or without a deviation, or dashes."""
    number = re.compile(r"[–±\d.,\s-]*")
    return [name for name in frame.columns if all(number.fullmatch(cell(value)) for value in frame[name])]


def cell(value: Any) -> str:
    """Return the text of a table's cell; a missing value is a dash."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
