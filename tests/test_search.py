"""Searches: what is dropped and why, the same study after a stop, and the best with further seeds."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_cache.errors import UserError
from read_cache.report.aggregate import by_store
from read_cache.report.rates import rates_figure
from read_cache.store.manifest import StoreFolder
from read_cache.train.grid import NetworkConfig, TrainConfig
from read_cache.train.recipe import Recipe
from read_cache.train.recipe_file import load_recipe
from read_cache.train.results import read_results
from read_cache.train.run import train_store
from read_cache.train.sweep import dropped_networks, search_networks, train_best

HALVED = """
[network]
cell = 'rnn'
hidden = [2, 4]
learning_rate = [0.001, 0.02]
[run]
epochs = 3
batch_size = 8
halving = 1
"""
STUDY = """
[network]
cell = ["rnn", "gru"]
hidden = [2, 4]
learning_rate = {low = 1e-4, high = 1e-2}
[search]
method = "optuna"
trials = 14
batch = 4
"""


def written(folder: Path, text: str) -> Recipe:
    """The recipe of a file with this text."""
    (folder / "mine.toml").write_text(text)
    return load_recipe(str(folder / "mine.toml"))


scores = st.lists(st.tuples(st.floats(-100, 100), st.floats(-9, 0)), max_size=40)


@given(scores, st.integers(1, 12), st.integers(0, 5))
def test_the_worse_half_is_dropped_when_it_is_time(scores, epoch, halving) -> None:
    dropped = dropped_networks(scores, epoch, TrainConfig(epochs=10, halving=halving))
    if halving == 0 or epoch % halving or epoch >= 10:
        assert dropped == {}
        return
    assert len(dropped) == len(scores) // 2
    kept = [score for place, score in enumerate(scores) if place not in dropped]
    assert all(scores[place] <= score for place in dropped for score in kept)


def test_why_a_network_is_dropped_and_what_decides_among_equals() -> None:
    run = TrainConfig(halving=2)
    assert dropped_networks([(50, -1), (70, -2), (70, -1), (70, -1), (10, 0)], 4, run) == {
        0: "dropped at epoch 4: rank 4 of 5",
        4: "dropped at epoch 4: rank 5 of 5",
    }
    assert dropped_networks([(70, -2), (70, -1)], 2, run) == {0: "dropped at epoch 2: rank 2 of 2"}
    assert dropped_networks([(70, -1), (70, -1)], 2, run) == {1: "dropped at epoch 2: rank 2 of 2"}
    assert dropped_networks([(70, -1)], 2, run) == {}


class Bench:
    """Trains nothing: a network's metric is a function of its settings, best at a rate of 1e-3 and wide."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, networks: list[NetworkConfig], run: TrainConfig) -> list[dict]:
        self.calls.append([network.name for network in networks])
        return [self.result(network) for network in networks]

    def result(self, network: NetworkConfig) -> dict:
        off = abs(np.log10(network.learning_rate / 1e-3))
        score = None if network.learning_rate > 8e-3 else 80 - 20 * off + network.read.hidden + network.seed
        read = {"cell": network.read.cell, "hidden": network.read.hidden}
        rate, seed = network.learning_rate, network.seed
        told = {"network": network.name, "validation": score, "read": read, "learning_rate": rate, "seed": seed}
        return told | {"best_epoch": 1, "history": [{"validation_loss": 1.0}]}


def test_a_study_asks_in_batches_for_what_looks_better_and_the_same_each_time(tmp_path) -> None:
    plan = written(tmp_path, STUDY.replace("14", "60")).plan("any", "mean")
    first, second = Bench(), Bench()
    found = search_networks(plan, first)
    assert search_networks(plan, second) == found
    assert first.calls == second.calls
    assert [len(call) for call in first.calls] == [4] * 15
    assert len({result["network"] for result in found}) == len(found)
    score = [r["validation"] for r in found if r["validation"] is not None]
    assert np.mean(score[-20:]) > np.mean(score[:12]) + 5
    assert sum(r["validation"] is None for r in found[-20:]) <= 1


def test_a_study_of_lists_alone_trains_a_network_once_a_batch(tmp_path) -> None:
    text = STUDY.replace("{low = 1e-4, high = 1e-2}", "0.00123456789")
    plan = written(tmp_path, text).plan("any", "mean")
    bench = Bench()
    found = search_networks(plan, bench)
    assert all(len(set(call)) == len(call) for call in bench.calls)
    assert len(found) == len({result["network"] for result in found}) <= 4
    assert {result["learning_rate"] for result in found} == {0.00123456789}


def test_a_study_without_optuna_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    plan = written(tmp_path, STUDY).plan("any", "mean")
    with pytest.raises(UserError, match=r"not installed: pip install 'optuna>=5'"):
        search_networks(plan, Bench())


def test_a_stopped_study_goes_on_where_it_was(tmp_path, words_store) -> None:
    """Networks that a stopped search had finished are not trained again, and the rest are those of a whole one."""
    text = STUDY.replace("14", "6").replace("batch = 4", "batch = 2") + "[run]\nepochs = 1\nbatch_size = 20\n"
    plan = written(tmp_path, text).plan("words", "mean")
    stops = iter((False, True))

    def trainer(out: str, stop: bool = False):
        def train(networks, run):
            if stop and next(stops):
                raise KeyboardInterrupt
            return train_store(StoreFolder(words_store), tmp_path / out, networks, run)

        return train

    whole = search_networks(plan, trainer("whole"))
    with pytest.raises(KeyboardInterrupt):
        search_networks(plan, trainer("again", stop=True))
    finished = read_results(tmp_path / "again")
    again = search_networks(plan, trainer("again"))
    assert len(finished) == 2
    assert read_results(tmp_path / "again")[:2] == finished
    assert [(r["network"], r["history"]) for r in again] == [(r["network"], r["history"]) for r in whole]
    assert len(whole) == 6


def test_the_best_by_validation_is_trained_with_further_seeds_without_halving(tmp_path) -> None:
    text = "[network]\nhidden = [4, 8]\nlearning_rate = [0.001, 0.009]\n[run]\nhalving = 1\n"
    plan = written(tmp_path, text + "[search]\nfinal_seeds = [0, 1, 2]\n").plan("any", "mean")
    runs = []

    def train(networks: list[NetworkConfig], run: TrainConfig) -> list[dict]:
        runs.append((len(networks), run.halving))
        return Bench()(networks, run)

    final = train_best(plan, search_networks(plan, train), train)
    assert runs == [(4, 1), (2, 0)]
    assert [r["network"] for r in final] == [f"gru-8-lr0.001-seed{seed}" for seed in (0, 1, 2)]
    assert train_best(plan, [{"validation": None}], train) == []


def test_the_best_of_a_halved_grid_is_trained_on_and_nothing_twice(tmp_path, words_store) -> None:
    plan = written(tmp_path, HALVED + "[search]\nfinal_seeds = [0, 1]\n").plan("words", "mean")

    def train(networks: list[NetworkConfig], run: TrainConfig) -> list[dict]:
        return train_store(StoreFolder(words_store), tmp_path / "run", networks, run)

    found = search_networks(plan, train)
    assert sorted(r["stopped"].partition(":")[0] for r in found) == [
        "all epochs done", "dropped at epoch 1", "dropped at epoch 1", "dropped at epoch 2",
    ]  # fmt: skip
    final = train_best(plan, found, train)
    assert [(r["seed"], r["stopped"]) for r in final] == [(0, "all epochs done"), (1, "all epochs done")]
    assert final[0] in found
    assert train_best(plan, search_networks(plan, train), train) == final
    trained = read_results(tmp_path / "run")
    assert len(trained) == 5

    dropped = {(r["learning_rate"], r["validation"]) for r in trained if r["stopped"].startswith("dropped")}
    panels = rates_figure(by_store(trained)[0]).axes
    drawn = [line for axes in panels for line in axes.lines if line.get_label() == "dropped early"]
    assert {point for line in drawn for point in zip(*line.get_data(), strict=True)} == dropped
