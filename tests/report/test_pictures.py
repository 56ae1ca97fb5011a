"""Pictures show the results, name the best networks, and fit their legends."""

from matplotlib.figure import Figure

from read_cache.report.page import Report
from read_cache.report.pictures import NAMED, curves_figure, legend_below, styled, tried_figure
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


def curves_of(results: list[Result]) -> Figure:
    return curves_figure(Report(results).networks)


def test_curves_are_those_of_the_results() -> None:
    results = [*grid(), result(kind="probe", validation=-20.0), result(rate=0.5, validation=None)]
    curves = curves_of(results)
    for field, axes in zip(("train_loss", "validation_loss", "validation"), curves.axes, strict=True):
        drawn = sorted(tuple(line.get_ydata()) for line in axes.lines)
        assert drawn == sorted(tuple(getattr(epoch, field) for epoch in one.history) for one in results)
        for line in axes.lines:
            assert list(line.get_xdata()) == list(range(1, len(line.get_xdata()) + 1))
    assert [axes.get_ylabel() for axes in curves.axes] == ["nats an example"] * 2 + ["accuracy, × 100"]


def test_losses_have_the_unit_of_the_results() -> None:
    curves = curves_of([result(loss_unit="squared error")])
    assert [axes.get_ylabel() for axes in curves.axes[:2]] == ["squared error"] * 2


def test_many_networks_are_faint_but_for_the_best_and_one_of_each_kind() -> None:
    results = [*grid(20), result(kind="probe", validation=-50.0)]
    curves = curves_of(results)
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
    curves = curves_of([*grid(20), wild])
    assert curves.axes[0].get_ylim()[1] < 10


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


def test_what_was_tried_is_drawn_by_rate_and_bytes() -> None:
    results = [
        *grid(3),  # means -0.5, 0.5, 1.5 at 0.0001, 0.001, 0.01
        result(kind="probe", rate=0.001, validation=-3.0, parameters=10),
        result(kind="probe", rate=0.01, validation=-4.0, parameters=50),
        result(rate=0.5, validation=None),
    ]
    rates, weights = tried_figure(Report(results).networks).axes
    assert [axes.get_xlabel() for axes in (rates, weights)] == ["learning rate", "bytes of weights"], (
        "no store is there"
    )
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in rates.lines}
    assert lines["read"] == [(0.0001, -0.5), (0.001, 0.5), (0.01, 1.5)]
    assert lines["probe"] == [(0.001, -3.0), (0.01, -4.0)]
    dots = sorted(tuple(point) for line in rates.lines if line.get_linestyle() == "None" for point in line.get_xydata())
    drawn = {(one.learning_rate, one.validation) for one in results if one.validation is not None}
    assert drawn <= set(dots)
    assert (0.5, 0.03) in dots, "a network without a metric is a cross at the lower edge"
    fronts = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in weights.lines}
    assert fronts["probe"] == [(40.0, -3.0)], "more bytes did not help"
    assert fronts["read"] == [(4000.0, 1.5)]
    assert [text.get_text() for text in rates.get_xticklabels()] == ["0.0001", "0.001", "0.01", "0.5"]
    assert len(tried_figure(Report(results).networks, columns=1).axes) == 2
