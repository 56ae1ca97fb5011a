"""Parts of the report by themselves: what all pictures share, and settings of results of any age."""

import dataclasses

import pytest
from matplotlib.figure import Figure

from read_cache.networks.config import ReadConfig
from read_cache.report.style import legend_below, styled
from read_cache.report.tables import setting_rows


@pytest.mark.parametrize(("length", "columns"), [(10, 3), (48, 2), (100, 1)])
def test_a_legend_takes_as_many_columns_as_fit(length, columns) -> None:
    with styled():
        figure = Figure(figsize=(10, 4), layout="constrained")
        for axes in figure.subplots(1, 2):
            for number in range(6):
                axes.plot([0, 1], label=f"{number}{'n' * (length - 1)}")
        legend_below(figure, 3)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width
        assert len(legend.get_texts()) == 6, "each label once"
        left = {round(text.get_window_extent().x0) for text in legend.get_texts()}
        assert len(left) == columns


def test_a_setting_that_older_results_lack_was_as_by_default() -> None:
    new = {"learning_rate": 1e-3, "seed": 0, "read": dataclasses.asdict(ReadConfig(matching=64)), "run": {}}
    old = {**new, "read": {name: value for name, value in new["read"].items() if name != "matching"}}
    assert ("matching", "64") in setting_rows([new])
    assert ("matching", "0, 64") in setting_rows([old, new])
