"""Validation metric against learning rate, a panel for each shape of network."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from read_cache.report.aggregate import Configuration, StoreResults, is_finite
from read_cache.report.style import COLOURS, FAINT, legend_below, styled

BLUE, VERMILION, GREEN = COLOURS[:3]
COLUMNS = 3
TICKS = 5


def by_shape(store: StoreResults) -> dict[str, list[Configuration]]:
    """Configurations of each shape by learning rate; the shape of the best is first."""
    shapes: dict[str, list[Configuration]] = {}
    for configuration in store.configurations:
        shapes.setdefault(configuration.shape, []).append(configuration)
    return {shape: sorted(found, key=lambda c: c.learning_rate) for shape, found in shapes.items()}


@styled()
def rates_figure(store: StoreResults) -> Figure | None:
    """Mean over seeds and best seed against learning rate; None where no shape was tried with two."""
    shapes = by_shape(store)
    if max(len(found) for found in shapes.values()) < 2:
        return None
    columns = min(COLUMNS, len(shapes))
    rows = -(-len(shapes) // columns)
    figure = Figure(figsize=(max(6.0, 3.4 * columns), 2.6 * rows + 1.2), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(shapes) :]:
        axes.remove()
    for number, (axes, (shape, found)) in enumerate(zip(grid.flat, shapes.items(), strict=False), start=1):
        axes.margins(y=0.12)
        _draw_shape(axes, found, store.chosen)
        lowest = number + columns > len(shapes)
        axes.tick_params(labelbottom=lowest)
        axes.set(title=shape, xlabel="peak learning rate (log scale)" if lowest else "")
    for axes in grid[:, 0]:
        axes.set_ylabel("validation metric, × 100")
    _mark_rates(grid[0, 0], sorted({c.learning_rate for c in store.configurations}))
    figure.suptitle(f"{store.title}: validation {store.metric} by learning rate")
    legend_below(figure, COLUMNS)
    return figure


def _draw_shape(axes: Axes, found: list[Configuration], chosen: Configuration | None) -> None:
    means = {c.learning_rate: c.validation.mean for c in found if c.validation}
    for configuration in found:
        rate = configuration.learning_rate
        values = [r["validation"] for r in configuration.results if is_finite(r["validation"])]
        if len(values) > 1:
            axes.plot([rate] * len(values), values, ".", color=FAINT, label="a seed")
            axes.plot(rate, max(values), "^", color=VERMILION, markerfacecolor="none", label="best seed")
        if len(values) < len(configuration.results):
            low = axes.get_xaxis_transform()
            axes.plot(rate, 0.03, "kx", zorder=3, transform=low, label="a seed that finished no epoch")
    axes.plot(list(means), list(means.values()), "o-", color=BLUE, markersize=4, label="mean over seeds")
    early = [c.learning_rate for c in found if c.dropped and c.learning_rate in means]
    if early:
        told: dict[str, Any] = {"color": BLUE, "markersize": 5, "markerfacecolor": "white", "label": "dropped early"}
        axes.plot(early, [means[rate] for rate in early], "o", **told)
    if chosen in found:
        at = (chosen.learning_rate, means[chosen.learning_rate])
        axes.plot(*at, "o", color=GREEN, markersize=11, markerfacecolor="none", markeredgewidth=2, label="chosen")


def _mark_rates(axes: Axes, rates: list[float]) -> None:
    """Ticks at decades, or at rates that were tried where these span less than two."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    if rates[-1] / rates[0] >= 100:
        axes.xaxis.set_major_locator(LogLocator())
    else:
        count = min(TICKS, len(rates))
        axes.set_xticks([rates[round(i * (len(rates) - 1) / (count - 1))] for i in range(count)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.2g}"))
