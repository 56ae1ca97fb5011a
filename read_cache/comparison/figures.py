"""Table 3 and Figures 1, 2, 5 and 6 of the READ paper, from comparisons and from counts at T5's published sizes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from read_cache.comparison.computed import LABELS, ROWS, SHOWN, SIZES, SOURCE, compute, published
from read_cache.comparison.table import NAME
from read_cache.errors import UserError
from read_cache.networks.saved import writing
from read_cache.report.page import template
from read_cache.report.pictures import COLOURS, MARKERS, Look, legend_below, png, styled
from read_cache.report.tables import paper
from read_cache.watch import Watch

GIB = 2**30
PAGE = "figures.md"
PAPER_NAMES = {
    "full": "Full-tuning", "adapter": "Adapter", "lora": "LoRA", "bitfit": "BitFit", "prompt": "Prompt-tuning",
    "ladder": "LST", "read": "READ",
}  # fmt: skip
"""By kind: the name in the paper's Table 1."""
COSTS = {"energy": "total_device_energy_eq4_joules", "training time": "total_time"}
MEMORY = {"peak GPU memory": "accelerator_memory_max", "counted memory": "counted_memory"}
"""By name: columns of a comparison, the first that was measured of every method counts."""


def read_comparisons(folders: Sequence[Path]) -> pd.DataFrame:
    """Return the records of all methods in comparisons' folders, with a column `task`. Raises UserError."""
    records = []
    for folder in folders:
        try:
            comparison = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder} holds no {NAME}.json: expected a folder that read-cache compare wrote"
            ) from error
        methods = [record for record in comparison["methods"] if "num_trainable_params" in record]
        if "full" not in [record["method"] for record in methods]:
            raise UserError(
                f"{folder} has no full fine-tuning, which the figures are relative to: run read-cache compare with "
                "--method full too"
            )
        records += [{"task": comparison["task"], "model": comparison["model"], **record} for record in methods]
    return pd.DataFrame(records)


def measured(frame: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """Return the first of some quantities that every method has, or the last."""
    *_, last = columns
    return next((name for name, column in columns.items() if column in frame and frame[column].notna().all()), last)


def relative(frame: pd.DataFrame, column: str, how: str) -> pd.Series:
    """Return a quantity by method, over the tasks, in percent of full fine-tuning's."""
    by_method = frame.pivot_table(index="method", columns="task", values=column, sort=False).dropna()
    totals = by_method.agg(how, axis=1)
    return 100 * totals / totals["full"]


def trained_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return Figures 1 and 2 as numbers: a row for each method; a paper's number is missing where it prints none."""
    cost, memory = measured(frame, COSTS), measured(frame, MEMORY)
    split = "test" if frame["test"].notna().all() else "validation"
    columns = {
        f"{cost}, % of full": relative(frame, COSTS[cost], "sum"),
        f"{memory}, % of full": relative(frame, MEMORY[memory], "max"),
        f"mean {split} metric": frame.pivot_table(index="method", columns="task", values=split).dropna().mean(axis=1),
    }
    rows = pd.DataFrame(columns).reindex(frame["method"].unique()).dropna()
    printed = {row["method"]: row for row in paper()["table1"]}
    whole = printed["Full-tuning"]["energy_kwh"]
    theirs = [printed.get(PAPER_NAMES.get(kind, "")) for kind in rows.index]
    rows["paper: energy, % of full"] = [row and 100 * row["energy_kwh"] / whole for row in theirs]
    rows["paper: mean test metric"] = [row and fmean(row["scores"].values()) for row in theirs]
    return rows.rename_axis("method").reset_index()


def computed_frame(watch: Watch) -> pd.DataFrame:
    """Return Table 3 and Figures 5 and 6 as numbers: a row for each size and method."""
    rows = []
    for size in SIZES:
        watch.say(f"computing memory and operations at the size of {size}")
        counts = {method: compute(published(size), *of) for method, of in SHOWN.items()}
        full = counts["Full"]
        for method, found in counts.items():
            rows.append({
                "size": size, "method": method, **found.values(),
                "inference memory, % over Full": 100 * (found.inference_bytes / full.inference_bytes - 1),
                "inference operations, % over Full": 100 * (found.flops / full.flops - 1),
                "paper: inference memory, GB": (theirs := paper()["table3"][size])[method],
                "paper: inference memory, % over Full": 100 * (theirs[method] / theirs["Full"] - 1),
            })  # fmt: skip
    return pd.DataFrame(rows)


@styled()
def figure1(trained: pd.DataFrame) -> Figure:
    """Draw the cost of each method relative to full fine-tuning, and the paper's energy beside it."""
    figure = Figure(figsize=(7, 0.5 + 0.5 * len(trained)), layout="constrained")
    axes = figure.subplots()
    for shift, column, colour in ((0.2, trained.columns[1], COLOURS[0]), (-0.2, "paper: energy, % of full", "#b0b0b0")):
        axes.barh([-place - shift for place in trained.index], trained[column], 0.4, color=colour, label=column)
    axes.set(yticks=[-place for place in trained.index], yticklabels=trained["method"], xlabel="% of full fine-tuning")
    legend_below(figure)
    return figure


@styled()
def figure2(trained: pd.DataFrame) -> Figure:
    """Draw the mean metric of each method against its cost and its memory, relative to full fine-tuning."""
    figure, panels = two_panels(sharey=True)
    _, cost, memory, metric, *theirs = trained.columns
    for axes, column in zip(panels, (cost, memory), strict=True):
        for place, row in trained.iterrows():
            axes.plot(row[column], row[metric], **look(place), linestyle="", label=row["method"])
            if column == cost:
                axes.plot(*row[theirs], **look(place) | {"markerfacecolor": "none"}, linestyle="")
        axes.set(xlabel=column, ylabel=metric)
        axes.set_xlim(left=0)
    figure.suptitle("hollow: the paper's energy and mean metric, T5-base")
    legend_below(figure, 4)
    return figure


@styled()
def figure5(computed: pd.DataFrame) -> Figure:
    """Draw trained parameters and training memory by size."""
    figure, (left, right) = two_panels()
    by_size(left, computed, "parameters", "trained parameters")
    by_size(right, computed.assign(training=computed["training_bytes"] / GIB), "training", "training memory, GiB")
    from_store = computed.assign(cached=computed["cached_bytes"] / GIB).dropna(subset="cached")
    by_size(right, from_store, "cached", "training memory, GiB", linestyle=":", label="{}, from the store")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    legend_below(figure, 4)
    return figure


@styled()
def figure6(computed: pd.DataFrame) -> Figure:
    """Draw how far operations and memory of inference are over those of full fine-tuning, by size."""
    figure, (left, right) = two_panels()
    others = computed[computed["method"] != "Full"]
    for axes, column in ((left, "inference operations, % over Full"), (right, "inference memory, % over Full")):
        by_size(axes, others, column, column)
    by_size(right, others, "paper: inference memory, % over Full", right.get_ylabel(), linestyle=":", label="{}, paper")
    legend_below(figure, 4)
    return figure


def two_panels(sharey: bool = False) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(9, 4), layout="constrained")
    return figure, figure.subplots(1, 2, sharey=sharey)


def by_size(axes: Axes, frame: pd.DataFrame, column: str, ylabel: str, linestyle: str = "-", label: str = "{}") -> None:
    """Draw a line for each method over the sizes."""
    for method, rows in frame.groupby("method", sort=False):
        style = look([*SHOWN].index(method)) | {"linestyle": linestyle, "linewidth": 1.2}
        axes.plot(rows["size"], rows[column], label=label.format(method), **style)
    axes.set(ylabel=ylabel)


def look(place: int) -> Look:
    """Return the colour and marker of a method."""
    colour, marker = [*zip((*COLOURS, "#000000"), (*MARKERS, "X"), strict=True)][place % (len(COLOURS) + 1)]
    return {"color": colour, "marker": marker, "markersize": 5}


def write_figures(folders: Sequence[Path], out: Path, watch: Watch = Watch()) -> Path:
    """Write figures.md, its pictures and their numbers to a folder; return the page.

    Without comparisons there are no Figures 1 and 2. Raises UserError.
    """
    trained = trained_frame(read_comparisons(folders)) if folders else None
    computed = computed_frame(watch)
    pictures = {} if trained is None else {"figure1": figure1(trained), "figure2": figure2(trained)}
    pictures |= {"figure5": figure5(computed), "figure6": figure6(computed)}
    text = template("figures.md.j2").render(
        trained=trained,
        table3=table3(computed),
        batch=f"{ROWS} rows of {SOURCE} tokens, {len(LABELS)} labels",
        settings={name: f"{kind} {values or ''}" for name, (kind, values) in SHOWN.items()},
    )
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in pictures.items():
            (out / f"{name}.png").write_bytes(png(figure))
        for name, frame in {"figures-1-2": trained, "figures-5-6": computed}.items():
            if frame is not None:
                (out / f"{name}.csv").write_text(frame.to_csv(index=False), encoding="utf-8")
        (out / PAGE).write_text(text, encoding="utf-8")
    return out / PAGE


def table3(computed: pd.DataFrame) -> pd.DataFrame:
    """Return Table 3: inference memory by size and method, computed here and as the paper prints it."""
    here, theirs = (
        computed.assign(memory=values).pivot_table(index="size", columns="method", values="memory", sort=False)
        for values in (computed["inference_bytes"] / GIB, computed["paper: inference memory, GB"])
    )
    rows = pd.concat([here.assign(source="computed, GiB"), theirs.assign(source="paper, GB")]).reset_index()
    rows = rows.sort_values("size", key=lambda sizes: sizes.map([*SIZES].index), kind="stable")
    return rows[["size", "source", *SHOWN]]
