"""Searches: the best with further seeds, which networks halving stops, and settings given for all kinds."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from read_cache.config import RunConfig
from read_cache.methods.run import live_methods
from read_cache.training.loop import losers
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Recipe, load_recipe, side_networks
from read_cache.training.results import Epoch, Result, StopReason
from read_cache.training.run import train_best

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

    def __call__(self, networks: list[NetworkConfig], run: RunConfig) -> list[Result]:
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


def test_the_best_by_validation_is_trained_with_further_seeds_without_halving(tmp_path) -> None:
    text = "[network]\nhidden = [4, 8]\nlearning_rate = [0.001, 0.009]\n[run]\nhalving = 1\n"
    sweep = written(tmp_path, text + "[search]\nfinal_seeds = [0, 1, 2]\n").sweep("any")
    runs = []

    def train(networks: list[NetworkConfig], run: RunConfig) -> list[Result]:
        runs.append((len(networks), run.halving))
        return Bench()(networks, run)

    final = train_best(sweep, dict(zip(sweep.networks(), train(sweep.networks(), sweep.run), strict=True)), train)
    assert runs == [(4, 1), (2, 0)]
    assert [result.network for result in final] == [f"read-gru-8-lr0.001-seed{seed}" for seed in (0, 1, 2)]
    assert len({result.configuration for result in final}) == 1


def test_a_search_without_a_metric_has_no_best(tmp_path) -> None:
    sweep = written(tmp_path, "[network]\nlearning_rate = 0.009\n[search]\nfinal_seeds = [0, 1]\n").sweep("any")
    trained = dict(zip(sweep.networks(), Bench()(sweep.networks(), sweep.run), strict=True))
    assert train_best(sweep, trained, Bench()) == []


def test_kinds_that_train_apart_may_have_their_own_epochs_and_others_lose_their_tables(tmp_path) -> None:
    recipe = written(tmp_path, "[network]\nkind = ['read', 'probe']\n[network.probe]\nepochs = 3\n[run]\nepochs = 5\n")
    sweep = recipe.sweep("", apart=True)
    assert (sweep.run.epochs, {kind: run.epochs for kind, run in sweep.runs.items()}) == (5, {"probe": 3})
    alone = recipe.override({"kind": "read"})
    assert (alone.sweep("").run.epochs, alone.sweep("").choices["kind"]) == (5, ["read"])


def test_a_setting_given_for_all_replaces_those_of_single_kinds() -> None:
    recipe = load_recipe("real", {**side_networks(), **live_methods()}).override({"learning_rate": 0.01, "epochs": 2})
    sweep = recipe.override({"ladder.learning_rate": 0.02}).sweep("cola", apart=True)
    rates = {network.kind: network.learning_rate for network in sweep.networks()}
    assert rates.pop("ladder") == 0.02
    assert set(rates.values()) == {0.01}
    assert {run.epochs for run in (sweep.run, *sweep.runs.values())} == {2}
