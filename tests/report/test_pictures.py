"""Pictures show the results, name the best networks, and fit their legends."""

import numpy as np
from matplotlib.figure import Figure

from read_cache.report.page import Report
from read_cache.report.pictures import NAMED, curves_figure, legend_below, rates_figure, styled
from read_cache.training.results import Result
from support.results import result


def grid(count: int = 2, kind: str = "read") -> list[Result]:
    """Networks of `count` rates and two seeds, better at higher rates."""
    rates = [10.0 ** (power - count - 1) for power in range(count)]
    return [
        result(kind=kind, rate=rate, seed=seed, validation=place - seed)
        for place, rate in enumerate(rates)
        for seed in (0, 1)
    ]


def pictures(results: list[Result]) -> tuple[Figure, Figure | None]:
    tables = Report(results)
    return curves_figure(tables.networks), rates_figure(tables.networks, tables.configurations, tables.chosen)


def test_curves_are_those_of_the_results() -> None:
    results = [*grid(), result(kind="probe", validation=-20.0), result(rate=0.5, validation=None)]
    curves, _ = pictures(results)
    for field, axes in zip(("train_loss", "validation_loss", "validation"), curves.axes, strict=True):
        drawn = sorted(tuple(line.get_ydata()) for line in axes.lines)
        assert drawn == sorted(tuple(getattr(epoch, field) for epoch in one.history) for one in results)
        for line in axes.lines:
            assert list(line.get_xdata()) == list(range(1, len(line.get_xdata()) + 1))
    assert [axes.get_ylabel() for axes in curves.axes] == ["nats an example"] * 2 + ["accuracy, × 100"]


def test_losses_have_the_unit_of_the_results() -> None:
    curves, _ = pictures([result(loss_unit="squared error")])
    assert [axes.get_ylabel() for axes in curves.axes[:2]] == ["squared error"] * 2


def test_many_networks_are_faint_but_for_the_best_and_one_of_each_kind() -> None:
    results = [*grid(20), result(kind="probe", validation=-50.0)]
    curves, _ = pictures(results)
    assert [len(axes.lines) for axes in curves.axes] == [len(results)] * 3
    named = [line.get_label() for line in curves.axes[2].lines if not line.get_label().startswith("_")]
    best = sorted(grid(20), key=lambda one: -one.validation)[: NAMED - 1]
    assert named == [
        best[0].network,
        "probe-lr0.001-seed0",
        *(one.network for one in best[1:]),
    ]


def test_a_network_that_diverges_leaves_the_frame() -> None:
    wild = result(rate=0.5, validation=-90.0)
    wild = wild.replaced(history=tuple(epoch.replaced(train_loss=1e9) for epoch in wild.history))
    curves, _ = pictures([*grid(20), wild])
    assert curves.axes[0].get_ylim()[1] < 10


def test_rates_show_mean_deviation_choice_and_failures() -> None:
    results = [*grid(3), result(rate=0.5, validation=None), *grid(2, "probe")]
    tables = Report(results)
    _, rates = pictures(results)
    assert rates is not None
    (axes,) = rates.axes
    lines = {container.get_label(): container.lines[0] for container in axes.containers}
    assert list(lines) == ["read", "probe"]
    for kind, line in lines.items():
        rows = tables.configurations[tables.configurations["kind"] == kind].sort_values("learning_rate")
        assert list(line.get_xdata()) == list(rows["learning_rate"])
        np.testing.assert_array_equal(np.array(line.get_ydata(), float), rows["validation"])
    others = {line.get_label(): line for line in axes.lines}
    assert list(others["chosen"].get_xdata()) == list(tables.chosen["learning_rate"])
    assert list(others["a network that finished no epoch"].get_xdata()) == [0.5]


def test_one_rate_has_no_picture() -> None:
    assert pictures([result(), result(kind="probe")])[1] is None
    assert pictures([result(), result(kind="probe", rate=0.1)])[1] is None, "rates of two kinds do not compare"


def test_many_shapes_are_faint_but_for_the_best() -> None:
    results = [
        result(config={"hidden": hidden}, rate=rate, validation=hidden) for hidden in range(9) for rate in (0.1, 0.2)
    ]
    _, rates = pictures(results)
    assert rates is not None
    assert len(rates.axes[0].containers) == 9
    named = [label for label in rates.axes[0].get_legend_handles_labels()[1] if label.startswith("read")]
    assert named == [f"read: hidden {hidden}" for hidden in range(8, 8 - NAMED, -1)]


def test_a_legend_with_long_names_fits_and_names_each_once() -> None:
    with styled():
        figure = Figure(figsize=(10, 4), layout="constrained")
        for axes in figure.subplots(1, 2):
            for number in range(6):
                axes.plot([0, 1], label=f"{number}{'n' * 99}")
        legend_below(figure)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width
        assert len(legend.get_texts()) == 6
