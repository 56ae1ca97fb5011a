"""Pictures: learning curves, and metrics by learning rate and bytes."""

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, NullLocator
from rich.filesize import decimal

from read_cache.report.frames import METHOD, best_first

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which colour-blind people tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P")
Look = dict[str, Any]
FAINT: Look = {"color": "#9a9a9a", "linewidth": 0.6, "alpha": 0.5, "marker": ".", "markersize": 1.5}
NAMED = len(COLOURS)
"""Lines of a picture with a colour and a name; the others are faint."""
STYLE = {
    "axes.grid": True, "axes.spines.right": False, "axes.spines.top": False, "axes.titlesize": 10,
    "figure.titlesize": 11, "font.size": 9, "grid.alpha": 0.3, "legend.fontsize": 8, "legend.frameon": False,
    "savefig.dpi": 140, "text.parse_math": False,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Use matplotlib's defaults and STYLE, whatever the user's settings; a letter that the font lacks is a box."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


@styled()
def png(figure: Figure) -> bytes:
    """Return a figure as a PNG. The bytes depend on the data alone."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def images(draw: Callable[[int], Figure]) -> dict[str, dict[str, str | int]]:
    """Return a figure as inline PNGs with their sizes in pixels of a screen: `wide`, and `narrow` for a phone.

    `draw` gets the number of panels in a row.
    """
    made = {}
    for name, columns in {"wide": 3, "narrow": 1}.items():
        figure = draw(columns)
        data = base64.b64encode(png(figure)).decode("ascii")
        width, height = (round(inches * 100) for inches in figure.get_size_inches())
        made[name] = {"source": f"data:image/png;base64,{data}", "width": width, "height": height}
    return made


def panels_figure(panels: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with some panels, in rows of `columns`, and room for a legend below."""
    rows = -(-panels // columns)
    figure = Figure(figsize=(4 if columns == 1 else 10, 1.2 + 2.8 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, min(columns, panels), squeeze=False).ravel()[:panels])


def logarithmic(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks: powers of ten would need a text parser."""
    axes.set(**{f"{axis}scale": "log"})
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_formatter(LogFormatter())
    chosen.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.5)))


def legend_below(figure: Figure, columns: int = 1) -> None:
    """Add a legend with each label once."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)


@styled()
def curves_figure(networks: pd.DataFrame, columns: int = 3) -> Figure:
    """Draw losses and validation metric of networks with the same store and loss unit by epoch.

    The best network of each kind and the best others have a name, and a marker at their best epoch. The losses' frames
    hold the named networks and 95% of all values; a network that diverges leaves them.
    """
    ordered = best_first(networks)
    first = ~ordered.duplicated(METHOD) & ordered["validation"].notna()
    ordered = pd.concat([ordered[first], ordered[~first]])
    unit, metric = ordered["loss_unit"].iloc[0], f"{ordered['metric'].iloc[0].replace('_', ' ')}, × 100"
    panels = (("train_loss", "training loss", unit), ("validation_loss", "validation loss", unit))
    figure, drawn = panels_figure(3, columns)
    for axes, (field, title, label) in zip(drawn, (*panels, ("validation", "validation metric", metric)), strict=True):
        curves = [np.array([getattr(epoch, field) for epoch in result.history]) for result in ordered["result"]]
        for curve in curves[NAMED:]:
            axes.plot(np.arange(1, len(curve) + 1), curve, **FAINT)
        named = zip(curves, ordered.itertuples(), COLOURS, MARKERS, strict=False)
        for curve, network, colour, marker in named:
            best = [network.best_epoch - 1] if network.best_epoch else []
            look: Look = {"color": colour, "marker": marker, "markevery": best, "linewidth": 1.4}
            axes.plot(np.arange(1, len(curve) + 1), curve, label=network.network, **look)
        axes.set(title=title, xlabel="epoch", ylabel=label)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if field != "validation":
            named_values, values = (np.concatenate(part) for part in (curves[:NAMED], curves))
            values = values[np.isfinite(values)]
            if len(values):
                top = np.max(named_values[np.isfinite(named_values)], initial=np.percentile(values, 95))
                axes.set_ylim(top=top + 0.05 * (top - values.min()) or None)
    legend_below(figure)
    return figure


TRIED = {"learning_rate": "learning rate", "weight_bytes": "bytes of weights", "row_bytes": "stored bytes read a row"}
"""Columns that the validation metric is drawn against."""


def best_means(networks: pd.DataFrame, name: str) -> pd.Series:
    """Return the best mean validation metric over seeds at each value of a column."""
    means = networks.groupby(["configuration", "label", name])["validation"].mean()
    return means.groupby(level=name).max().dropna()


@styled()
def tried_figure(networks: pd.DataFrame, columns: int = 3) -> Figure:
    """Draw the validation metric of the networks of one store by learning rate and by bytes, as far as known.

    A dot is a network; a cross at the lower edge is one without a metric. A line joins the best means over seeds of a
    kind at each learning rate, and by bytes those that fewer bytes do not reach.
    """
    known = [name for name in TRIED if networks[name].notna().any()]
    figure, drawn = panels_figure(len(known), columns)
    for axes, name in zip(drawn, known, strict=True):
        for number, (kind, rows) in enumerate(networks.dropna(subset=name).groupby("kind", sort=False)):
            look: Look = {"color": COLOURS[number % NAMED], "marker": MARKERS[(number + number // NAMED) % NAMED]}
            axes.plot(rows[name], rows["validation"], **look, linestyle="none", markersize=4, alpha=0.5)
            means = best_means(rows, name)
            if name != "learning_rate":
                means = means[means == means.cummax()]
            axes.plot(means.index, means, **look, linewidth=1.4, markersize=7 if len(means) < 12 else 4, label=kind)
            if len(lost := rows.loc[rows["validation"].isna(), name]):
                edge = axes.get_xaxis_transform()
                axes.plot(lost, np.full(len(lost), 0.03), "x", color=look["color"], transform=edge)
        axes.set(xlabel=TRIED[name], ylabel=f"validation {networks['metric'].iloc[0].replace('_', ' ')}, × 100")
        logarithmic(axes, "x")
        values = np.unique(networks[name].dropna())
        if len(values) <= NAMED:
            texts = [f"{value:g}" if name == "learning_rate" else decimal(round(value)) for value in values]
            axes.set_xticks(values, texts, rotation=45)
            axes.xaxis.set_minor_locator(NullLocator())
    legend_below(figure, 3 if columns > 1 else 2)
    return figure
