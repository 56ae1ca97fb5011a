"""Searches: the same study after a stop, the best with further seeds, and which networks halving stops."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.training.loop import losers
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Recipe, load_recipe
from read_cache.training.results import Epoch, Result, StopReason
from read_cache.training.sweep import search_networks, train_best

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
scores = st.lists(st.tuples(st.floats(-100, 100), st.floats(-9, 0)), max_size=40)


def written(folder: Path, text: str) -> Recipe:
    """The recipe of a file with this text."""
    (folder / "mine.toml").write_text(text)
    return load_recipe(str(folder / "mine.toml"))


@given(scores, st.integers(1, 12), st.integers(0, 5))
def test_the_worse_half_stops_when_it_is_time(scores, epoch, halving) -> None:
    stopped = losers(scores, epoch, RunConfig(epochs=10, halving=halving))
    if halving == 0 or epoch % halving or epoch >= 10:
        assert stopped == {}
        return
    assert len(stopped) == len(scores) // 2
    kept = [score for index, score in enumerate(scores) if index not in stopped]
    assert all(scores[index] <= score for index in stopped for score in kept)


def test_why_a_network_stops_and_what_decides_among_equals() -> None:
    run = RunConfig(halving=2)
    detail = losers([(50, -1), (70, -2), (70, -1), (70, -1), (10, 0)], 4, run)
    assert {index: text.partition(" after")[0] for index, text in detail.items()} == {
        0: "rank 4 of 5",
        4: "rank 5 of 5",
    }
    assert list(losers([(70, -2), (70, -1)], 2, run)) == [0]
    assert list(losers([(70, -1), (70, -1)], 2, run)) == [1]
    assert losers([(70, -1)], 2, run) == {}


class Bench:
    """Trains nothing: a network's metric is a function of its settings, best at a rate of 1e-3 and wide."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, networks: list[NetworkConfig], run: RunConfig) -> list[Result]:
        self.calls.append([network.name for network in networks])
        return [self.result(network) for network in networks]

    def result(self, network: NetworkConfig) -> Result:
        off = abs(np.log10(network.learning_rate / 1e-3))
        metric = None
        if network.learning_rate <= 8e-3:
            metric = 80 - 20 * off + network.settings.hidden + network.seed
        history = () if metric is None else (Epoch(train_loss=1, validation_loss=1, validation=metric),)
        return Result(
            task="any", metric="accuracy", backbone="b", kind=network.kind, network=network.name,
            configuration=network.configuration, seed=network.seed, validation=metric, best_epoch=1,
            stop=StopReason.all_epochs, parameters=1, parameters_percent=1.0, learning_rate=network.learning_rate,
            config=network.settings.values(), run={}, history=history, folder="", store="", identity="",
        )  # fmt: skip


def test_a_study_asks_in_batches_for_what_looks_better_and_the_same_each_time(tmp_path) -> None:
    sweep = written(tmp_path, STUDY.replace("14", "60")).sweep("any")
    first, second = Bench(), Bench()
    found = search_networks(sweep, first)
    assert search_networks(sweep, second) == found
    assert first.calls == second.calls
    assert [len(call) for call in first.calls] == [4] * 15
    metrics = [result.validation for result in found.values()]
    measured = [metric for metric in metrics if metric is not None]
    assert np.mean(measured[-20:]) > np.mean(measured[:12]) + 5
    assert sum(metric is None for metric in metrics[-20:]) <= 1


def test_a_study_of_lists_alone_trains_a_network_once_a_batch(tmp_path) -> None:
    sweep = written(tmp_path, STUDY.replace("{low = 1e-4, high = 1e-2}", "0.00123456789")).sweep("any")
    bench = Bench()
    found = search_networks(sweep, bench)
    assert all(len(set(call)) == len(call) for call in bench.calls)
    assert len(found) <= 4
    assert {network.learning_rate for network in found} == {0.00123456789}


def test_a_study_may_choose_the_kind_and_the_head(tmp_path) -> None:
    text = STUDY.replace("cell =", 'kind = ["read", "read_matching"]\nhead.pooling = ["mean", "first"]\ncell =')
    found = search_networks(written(tmp_path, text).sweep("any"), Bench())
    assert {network.kind for network in found} == {"read", "read_matching"}
    assert {network.head.pooling for network in found} == {"mean", "first"}


def test_a_study_without_optuna_names_the_package(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="pip install 'optuna"):
        search_networks(written(tmp_path, STUDY).sweep("any"), Bench())


def test_the_best_by_validation_is_trained_with_further_seeds_without_halving(tmp_path) -> None:
    text = "[network]\nhidden = [4, 8]\nlearning_rate = [0.001, 0.009]\n[run]\nhalving = 1\n"
    sweep = written(tmp_path, text + "[search]\nfinal_seeds = [0, 1, 2]\n").sweep("any")
    runs = []

    def train(networks: list[NetworkConfig], run: RunConfig) -> list[Result]:
        runs.append((len(networks), run.halving))
        return Bench()(networks, run)

    final = train_best(sweep, search_networks(sweep, train), train)
    assert runs == [(4, 1), (2, 0)]
    assert [result.network for result in final] == [f"read-gru-8-lr0.001-seed{seed}" for seed in (0, 1, 2)]
    assert len({result.configuration for result in final}) == 1


def test_a_search_without_a_metric_has_no_best(tmp_path) -> None:
    sweep = written(tmp_path, "[network]\nlearning_rate = 0.009\n[search]\nfinal_seeds = [0, 1]\n").sweep("any")
    assert train_best(sweep, search_networks(sweep, Bench()), Bench()) == []
