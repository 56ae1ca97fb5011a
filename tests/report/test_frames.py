"""Configurations, the choice on validation, mean and deviation over seeds, averages over tasks."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from read_cache.api.training import Results
from read_cache.report.frames import (
    best_first,
    chosen_frame,
    configuration_frame,
    network_frame,
    score_frame,
    spread,
)
from read_cache.training.results import Epoch, Result
from support.results import result


def configurations(results: list[Result]) -> pd.DataFrame:
    return configuration_frame(network_frame(results))


def chosen(results: list[Result]) -> pd.DataFrame:
    return chosen_frame(configurations(results))


def average(results: list[Result]) -> float | None:
    """The only average."""
    networks = network_frame(results)
    scores = score_frame(networks, chosen_frame(configuration_frame(networks)), {}).set_index("column")
    return None if "average" not in scores.index else scores.loc["average", "mean"]


def test_the_choice_is_the_best_mean_over_the_most_seeds_and_never_sees_the_test() -> None:
    results = [result(rate=0.1, seed=seed, validation=value, test=0.0) for seed, value in enumerate((70.0, 72.0, 74.0))]
    results += [
        result(rate=0.2, seed=seed, validation=value, test=99.0) for seed, value in enumerate((60.0, 61.0, 80.0))
    ]
    fewer = [result(rate=0.3, seed=0, validation=90.0), result(rate=0.3, seed=1, validation=None)]
    assert list(configurations(results + fewer)["learning_rate"]) == [0.1, 0.2, 0.3]
    row = chosen(results + fewer).iloc[0]
    assert (row["validation"], row["validation_deviation"], row["seeds"]) == (72.0, 2.0, 3)
    assert row["test"] == 0.0


def test_of_equal_configurations_the_first_is_chosen() -> None:
    assert chosen([result(rate=0.2), result(rate=0.1)]).iloc[0]["learning_rate"] == 0.2


def test_of_networks_with_equal_metrics_the_one_with_the_smaller_loss_comes_first_as_in_results_best() -> None:
    epoch = Epoch(train_loss=1.0, validation_loss=2.0, validation=50.0)
    losses = (2.0, 1.0, 3.0)
    results = [
        result(seed=seed, best_epoch=1, history=[epoch.replaced(validation_loss=loss)])
        for seed, loss in enumerate(losses)
    ]
    assert list(best_first(network_frame([result(seed=3, validation=None), *results]))["seed"]) == [1, 0, 2, 3]
    assert Results(results).best.seed == 1
    assert configurations(results).iloc[0]["network"] == results[1].network


def test_each_kind_and_backbone_has_its_own_choice() -> None:
    kinds = [result(kind=kind, rate=rate) for kind in ("read", "probe", "lora") for rate in (0.1, 0.2)]
    untied = [result(config={"recurrent": value}) for value in (True, False)]
    large = [result(backbone="t5-large", identity="large")]
    rows = chosen(kinds + untied + large)
    assert set(zip(rows["backbone"], rows["kind"], strict=True)) == {
        ("t5-base", "read"), ("t5-base", "read (untied)"), ("t5-base", "probe"), ("t5-base", "lora"),
        ("t5-large", "read"),
    }  # fmt: skip
    assert len(rows) == 5


def test_other_settings_of_the_run_are_another_configuration() -> None:
    older = {"epochs": 30}  # written before the other settings existed
    longer = {"epochs": 60, "clip": 4.0}
    halved = {"epochs": 30, "halving": 2}
    runs = ((0, 50.0, older), (1, 60.0, halved), (2, 90.0, longer))
    rows = configurations([result(seed=seed, validation=value, run=run) for seed, value, run in runs])
    assert sorted(zip(rows["label"], rows["seeds"], strict=True)) == [
        ("read-lr0.001", 2), ("read-lr0.001, epochs=60, clip=4.0", 1),
    ]  # fmt: skip


def test_of_two_results_of_one_network_the_later_counts() -> None:
    networks = network_frame([result(validation=50.0), result(validation=60.0), result(validation=70.0, seed=1)])
    assert list(networks["validation"]) == [60.0, 70.0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9), st.integers(0, 3))
def test_mean_and_sample_deviation(values: list[float], missing: int) -> None:
    others = [None, float("nan"), float("inf")][:missing]
    results = [result(seed=seed, validation=value) for seed, value in enumerate(values + others)]
    row = configurations(results).iloc[0]
    assert (row["seeds"], row["networks"]) == (len(values), len(values) + missing)
    assert row["validation"] == pytest.approx(np.mean(values), abs=1e-9)
    assert row["validation_deviation"] == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_one_value_has_no_deviation_and_none_has_no_mean() -> None:
    assert (spread(5.0, 2.0), spread(5.0, float("nan")), spread(float("nan"), 1.0)) == ("5.00 ± 2.00", "5.00", None)
    row = configurations([result(validation=None)]).iloc[0]
    assert row["seeds"] == 0
    assert pd.isna(row["validation"])


def test_a_kind_whose_networks_finished_no_epoch_has_no_choice() -> None:
    assert list(chosen([result(validation=None), result(kind="probe")])["kind"]) == ["probe"]


def test_the_average_needs_one_store_and_a_test_for_every_task() -> None:
    one, other = result("cola", validation=40.0), result("mrpc", validation=60.0)
    assert average([one, other]) == 50.0
    assert average([one]) is None
    assert average([one, other.replaced(test=None)]) is None
    twice = [one, result("cola", validation=60.0, identity="f" * 64, store="stores/int8")]
    assert average(twice) is None
    assert average([*twice, other]) is None
    assert list(network_frame(twice)["title"]) == ["cola (stores/cola, cola0123)", "cola (stores/int8, ffffffff)"]


def test_an_average_is_the_mean_of_the_tasks_means_whatever_their_seeds() -> None:
    assert average([result(validation=50.0), result(seed=1, validation=52.0), result("qnli", seed=5)]) == 50.5
    lost = [result("cola", validation=50.0), result("qnli", validation=60.0), result("qnli", seed=1, test=None)]
    assert average(lost) == 55.0


def test_a_method_without_every_task_has_no_average() -> None:
    networks = network_frame([result("cola"), result("mrpc"), result("cola", kind="probe")])
    baselines = {
        "cola0123456789": {"majority": {"test": 1.0}},
        "mrpc0123456789": {"majority": {"test": 3.0}, "other": {"validation": 2.0}},
    }
    scores = score_frame(networks, chosen_frame(configuration_frame(networks)), baselines)
    averages = scores[scores["column"] == "average"].set_index("kind")["mean"]
    assert averages.to_dict() == {"read": 50.0, "baseline: majority": 2.0}


def test_parts_of_the_test_metric_are_averaged_over_seeds() -> None:
    results = [result(seed=seed, test_details={"f1": 80.0 + seed, "accuracy": 70.0}) for seed in range(3)]
    assert configurations(results).iloc[0]["parts"] == {"f1": 81.0, "accuracy": 70.0}
