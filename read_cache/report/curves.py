"""Learning curves: training loss, validation loss and validation metric by epoch."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from read_cache.report.aggregate import StoreResults, best_first
from read_cache.report.style import COLOURS, FAINT, MARKERS, legend_below, styled
from read_cache.train.results import Result

NAMED = len(COLOURS)
"""So many networks have a colour and a name; the others are faint."""
PANELS = {"train_loss": "training loss", "validation_loss": "validation loss", "validation": "validation metric"}


@styled()
def curves_figure(store: StoreResults) -> Figure:
    """Every network's three curves; the best few are named, with a marker at each one's best epoch.

    The losses' frames hold the named networks and 95% of all values: a network that diverges leaves them.
    """
    ordered = best_first(store.results)
    named, others = ordered[:NAMED], ordered[NAMED:]
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    for axes, (key, name) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        for result in others:
            axes.plot(*_curve(result, key), color=FAINT, linewidth=0.6, alpha=0.4, marker=".", markersize=1.5)
        for result, colour, marker in zip(named, COLOURS, MARKERS, strict=False):
            best = [result["best_epoch"] - 1] if result["best_epoch"] else []
            label = result["network"] if key == "validation" else None
            axes.plot(*_curve(result, key), color=colour, linewidth=1.4, marker=marker, markevery=best, label=label)
        axes.set(title=name, xlabel="epoch", ylabel=f"{store.metric}, × 100" if key == "validation" else "nats")
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if key != "validation":
            _frame_most(axes, [_curve(r, key)[1] for r in named], [_curve(r, key)[1] for r in ordered])
    count = f"{len(ordered)} networks, the best {len(named)} named" if others else f"{len(ordered)} networks"
    figure.suptitle(f"{store.title}: {count}; markers at the best epochs")
    legend_below(figure, 3)
    return figure


def _curve(result: Result, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs from 1, and values, which matplotlib leaves out where they are not finite."""
    values = np.array([entry[key] for entry in result["history"]], dtype=np.float64)
    return np.arange(1, len(values) + 1), values


def _frame_most(axes: Axes, named: list[np.ndarray], everything: list[np.ndarray]) -> None:
    values, sure = (curves[np.isfinite(curves)] for curves in map(np.concatenate, (everything, named)))
    if len(sure):
        low, high = values.min(), max(sure.max(), np.percentile(values, 95))
        margin = 0.05 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
