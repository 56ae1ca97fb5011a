"""The summary of a store: the choice, its margins, costs, and the command that uses it."""

import shlex
from typing import Any

import pytest

from read_cache.report.page import Report
from read_cache.report.summary import choice
from read_cache.training.results import Result
from support.boards import measure
from support.results import result

BASELINES = {"cola": {"majority class": {"validation": 1.0, "test": 12.5}, "other": {"validation": 2.0}}}


def chosen(results: list[Result], baselines: Any = BASELINES) -> dict[str, Any]:
    """The summary of the only store."""
    report = Report(results)
    return choice(report.networks, report.configurations, report.sessions, baselines.get("cola", {}))


def networks() -> list[Result]:
    """Two rates and two seeds of READ, and one probe; tests are ten points under validation."""
    values = ((0.001, 0, 70.0), (0.001, 1, 72.0), (0.01, 0, 60.0), (0.01, 1, 62.0))
    read = [result(rate=rate, seed=seed, validation=value, test=value - 10) for rate, seed, value in values]
    return [*read, *(result(kind="probe", seed=seed, validation=68.0, test=65.0) for seed in (0, 1))]


def test_the_best_on_validation_is_chosen_and_measured_against_the_others() -> None:
    found = chosen(networks())
    best, facts = found["best"], found["facts"]
    assert (best.kind, best.learning_rate, best.seeds, best.network) == ("read", 0.001, 2, "read-lr0.001-seed1")
    assert (found["score"], found["validation"], found["metric"]) == ("61.00 ± 1.41", "71.00 ± 1.41", "test accuracy")
    assert "3 configurations (6 networks)" in facts["chosen"]
    assert facts["second best"] == "probe-lr0.001, 3.00 lower on validation"
    assert "+48.50 against the majority class" in facts["baselines"]
    assert "other" not in facts["baselines"], "it has no test metric"
    assert [(kind, text) for kind, text, _ in found["scores"]] == [
        ("probe", "65.00 ± 0.00"), ("read", "61.00 ± 1.41"), ("baseline: majority class", "12.50"),
    ]  # fmt: skip
    assert [share for _, _, share in found["scores"]] == [65.0, 61.0, 12.5]


def test_the_second_best_of_one_kind_is_another_configuration_and_a_small_margin_is_named() -> None:
    assert chosen(networks()[:4])["facts"]["second best"].startswith("read-lr0.01, 10.00 lower")
    near = [result(kind="probe", seed=seed, validation=70.0 + seed) for seed in (0, 1)]
    assert "less than the deviation over seeds" in chosen([*networks(), *near])["facts"]["second best"]
    lucky = [result(kind="ladder", validation=90.0)]
    assert "19.00 higher on validation, over 1 seed" in chosen([*networks(), *lucky])["facts"]["second best"]
    assert "second best" not in chosen(networks()[:2])["facts"]


def test_without_a_test_split_the_metrics_are_those_of_validation() -> None:
    found = chosen([one.replaced(test=None) for one in networks()])
    assert (found["metric"], found["score"]) == ("validation accuracy", "71.00 ± 1.41")
    assert "+70.00 against the majority class, +69.00 against the other (validation)" in found["facts"]["baselines"]


def test_costs_are_those_of_both_stages_or_say_why_there_are_none() -> None:
    facts = chosen(networks())["facts"]
    assert facts["time"] == "3,600 s for extraction, 7,200 s for training 6 networks"
    assert facts["energy"].startswith("3 kWh (device)")
    assert facts["size"].startswith("4.0 kB in float32: 1,000 weights, 0.80%")
    unmetered = measure(None, [10.0])
    facts = chosen([result(readings=unmetered, extraction=unmetered)])["facts"]
    assert facts["energy"] == "no meter"
    facts = chosen([result(extraction=None).replaced(readings={})])["facts"]
    assert (facts["time"], facts["energy"]) == ("not measured", "not measured")


@pytest.mark.parametrize("folder", ["runs/a", "runs/with space/$HOME"])
def test_the_command_names_the_best_seed_and_survives_the_shell(folder: str) -> None:
    words = shlex.split(chosen([one.replaced(folder=f"{folder}/{one.network}") for one in networks()])["command"])
    assert words == ["read-cache", "predict", "--model", "t5-base", "--network", f"{folder}/read-lr0.001-seed1"]


def test_the_command_names_the_network_of_the_chosen_settings_of_the_run() -> None:
    best = result(validation=80.0, folder="runs/best")
    assert chosen([best, result(validation=60.0, folder="runs/b", run={"batch_size": 16})])["command"].endswith("best")


def test_a_network_of_imported_states_is_evaluated() -> None:
    found = chosen([result(folder="runs/a", parameters_percent=0)])
    assert found["command"] == "read-cache evaluate --store stores/cola --network runs/a"
    assert "backbone's are unknown" in found["facts"]["size"]


def test_readings_of_both_stages_are_needed_for_an_energy() -> None:
    unmetered = measure(None, [10.0])
    metered = unmetered.replaced(cpu_energy_joules=3.6e6)
    assert chosen([result(readings=metered, extraction=unmetered)])["facts"]["energy"] == "no meter"
    assert "1 kWh (CPU)" in chosen([result(readings=metered, extraction=None)])["facts"]["energy"]
