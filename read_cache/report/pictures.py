"""Pictures: learning curves."""

import base64
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from read_cache.report.frames import METHOD

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which colour-blind people tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P")
Look = dict[str, Any]
FAINT: Look = {"color": "#9a9a9a", "linewidth": 0.6, "alpha": 0.5, "marker": ".", "markersize": 1.5}
NAMED = len(COLOURS)
"""Lines of a picture with a colour and a name; the others are faint."""
SCREEN_DPI = 100
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


def image(figure: Figure) -> dict[str, str | int]:
    """Return a figure as an inline PNG and its width in pixels."""
    data = base64.b64encode(png(figure)).decode("ascii")
    return {"source": f"data:image/png;base64,{data}", "width": int(figure.get_figwidth() * SCREEN_DPI)}


def legend_below(figure: Figure, columns: int = 1) -> None:
    """Add a legend with each label once."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)


@styled()
def curves_figure(networks: pd.DataFrame) -> Figure:
    """Draw losses and validation metric of networks with the same store and loss unit by epoch.

    The best network of each kind and the best others have a name, and a marker at their best epoch. The losses' frames
    hold the named networks and 95% of all values; a network that diverges leaves them.
    """
    ordered = networks.sort_values("validation", ascending=False, kind="stable")
    first = ~ordered.duplicated(METHOD) & ordered["validation"].notna()
    ordered = pd.concat([ordered[first], ordered[~first]])
    unit, metric = ordered["loss_unit"].iloc[0], f"{ordered['metric'].iloc[0].replace('_', ' ')}, × 100"
    panels = (("train_loss", "training loss", unit), ("validation_loss", "validation loss", unit))
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    for axes, (field, title, label) in zip(
        figure.subplots(1, 3), (*panels, ("validation", "validation metric", metric)), strict=True
    ):
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
    few = f", {NAMED} of them named" if len(ordered) > NAMED else ""
    figure.suptitle(f"{ordered['title'].iloc[0]}: {len(ordered)} networks{few}; markers at the best epochs")
    legend_below(figure)
    return figure
