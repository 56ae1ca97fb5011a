"""What all pictures share: a look that no setting of the user's changes, and bytes that depend on the data alone."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which colour-blind people tell apart."""
DPI, SCREEN_DPI = 140, 100
"""Pixels an inch of a picture, and of the page that shows it."""
MARKERS = ("o", "s", "^", "D", "v", "P")
FAINT = "#9a9a9a"
STYLE: dict[str, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": DPI,
    "text.parse_math": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Within it, matplotlib's own defaults and ours hold; letters that its font lacks become boxes without a word."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def legend_below(figure: Figure, most: int) -> None:
    """A legend of everything that has a label in any axes, each label once, in `most` columns or as many as fit."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    for columns in range(most, 0, -1):
        legend = figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


@styled()
def png(figure: Figure) -> bytes:
    """The figure's image, without the version that made it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
