"""Recipes: the grids they mean, on each task and under the command line, and what they refuse."""

import itertools
import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_store, run_cli
from read_cache.errors import UserError
from read_cache.networks.config import ReadConfig
from read_cache.train.grid import NetworkConfig, TrainConfig
from read_cache.train.recipe import RateRange, Recipe
from read_cache.train.recipe_file import load_recipe
from read_cache.train.results import read_results

SMALL = "[network]\ncell = 'rnn'\nhidden = 4\n[run]\nepochs = 1\nbatch_size = 8\n"


def written(folder: Path, text: str) -> Recipe:
    """The recipe of a file with this text."""
    (folder / "mine.toml").write_text(text)
    return load_recipe(str(folder / "mine.toml"))


def test_the_papers_grid() -> None:
    """192 networks: three cells, two widths, 32 rates on a log scale from 1e-6 to 3e-3; then three seeds."""
    plan = load_recipe("paper").plan("cola", "mean")
    networks = plan.networks()
    assert len({network.name for network in networks}) == len(networks) == 192
    assert {(n.read.cell, n.read.hidden) for n in networks} == set(
        itertools.product(("rnn", "gru", "lstm"), (128, 256))
    )
    assert {(n.read.initial_state, n.read.standardize, n.seed) for n in networks} == {("zero", False, 0)}
    rates = sorted({network.learning_rate for network in networks})
    assert (len(rates), rates[0], rates[-1]) == (32, 1e-6, 3e-3)
    assert np.allclose(np.diff(np.log(rates)), np.log(3000) / 31, rtol=1e-4)
    assert plan.run == TrainConfig(epochs=30)
    assert plan.search.final_seeds == (0, 1, 2)


def test_the_readmes_recipe_is_one(tmp_path) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text().split("```toml\n")
    recipe = next(block.partition("```")[0] for block in text[1:] if "[network]" in block)
    recipe = written(tmp_path, textwrap.dedent(recipe))
    assert len(recipe.plan("cola", "mean").networks()) == 2 * len(recipe.plan("qnli", "mean").networks()) == 32


def test_a_task_has_its_own_grid_and_the_command_line_comes_first(tmp_path) -> None:
    text = SMALL + "[tasks.cola]\nhidden = [8, 16]\nepochs = 3\nlearning_rate = [0.01, 0.001]\n"
    recipe = written(tmp_path, text)
    cola, other = recipe.plan("cola", "mean"), recipe.plan("qnli", "heads")
    assert [(n.read.hidden, n.learning_rate) for n in cola.networks()] == [
        (8, 0.01), (8, 0.001), (16, 0.01), (16, 0.001),
    ]  # fmt: skip
    assert cola.run == TrainConfig(epochs=3, batch_size=8)
    assert other.networks() == [NetworkConfig(ReadConfig("rnn", 4, attention="heads"))]
    assert other.run == TrainConfig(epochs=1, batch_size=8)
    given_plan = recipe.override({"hidden": [2], "epochs": 5}).plan("cola", "mean")
    assert {n.read.hidden for n in given_plan.networks()} == {2}
    assert given_plan.run.epochs == 5
    assert len(given_plan.networks()) == 2


def test_without_a_recipe_there_is_one_network_of_the_defaults() -> None:
    plan = Recipe().plan("any", "none")
    assert plan.networks() == [NetworkConfig(ReadConfig(attention="none"))]
    assert plan.run == TrainConfig()


@given(st.integers(1, 200), st.integers(0, 5))
def test_random_rates_are_log_uniform_the_same_each_time_and_named_apart(count, seed) -> None:
    drawn = RateRange(1e-6, 3e-3, count, "random", seed)
    rates = drawn.rates()
    assert rates == RateRange(1e-6, 3e-3, count, "random", seed).rates()
    assert rates != RateRange(1e-6, 3e-3, count, "random", seed + 1).rates()
    assert all(1e-6 <= rate <= 3e-3 for rate in rates)
    assert len({NetworkConfig(ReadConfig(), rate).name for rate in rates}) == count
    if count == 200:
        assert 70 < sum(rate < np.sqrt(1e-6 * 3e-3) for rate in rates) < 130


def test_settings_that_differ_in_the_last_digit_have_names_that_differ() -> None:
    value = 0.1
    above = float(np.nextafter(value, 1))
    assert len({NetworkConfig(ReadConfig(), rate).name for rate in (value, above)}) == 2
    for setting in ("dropout", "embedding_gain", "residual"):
        assert len({NetworkConfig(ReadConfig(**{setting: one})).name for one in (value, above)}) == 2
    assert len({NetworkConfig(ReadConfig(matching=width)).name for width in (0, 1, 16)}) == 3
    whole = NetworkConfig(ReadConfig(embedding_gain=4, residual=0)).name
    assert (
        whole
        == NetworkConfig(ReadConfig(embedding_gain=4.0, residual=0.0)).name
        == "gru-128-gain4-residual0-lr0.0005-seed0"
    )


REFUSED = {
    "unknown table": ("[nets]\n", "tables: unknown nets; known: network, run, tasks, search"),
    "unknown key": ("[network]\nhiden = 4", "[network]: unknown hiden; known: cell, hidden"),
    "a run's key among a network's": ("[network]\nepochs = 4", "[network]: unknown epochs"),
    "text for a number": ("[network]\nhidden = '4'", "[network] hidden: found '4', expected a whole number"),
    "one of a list": ("[network]\nhidden = [4, 5.5]", "[network] hidden: found 5.5, expected a whole number"),
    "true for a number": ("[run]\nepochs = true", "[run] epochs: found True, expected a whole number"),
    "number for true": ("[network]\nrecurrent = 1", "[network] recurrent: found 1, expected true or false"),
    "no such cell": ("[network]\ncell = 'elman'", "[network] cell: cell 'elman' is none of rnn, gru, lstm"),
    "number for layers": ("[network]\nlayers = 3", "[network] layers: found 3, expected text"),
    "list for a run": ("[run]\nepochs = [1, 2]", "[run] epochs: found [1, 2], expected a whole number"),
    "empty list": ("[network]\nseed = []", "[network] seed: found an empty list"),
    "rate out of bounds": ("[network]\nlearning_rate = [0.1, 2]", "[network] learning_rate: --lr is 2"),
    "rate nan": ("[network]\nlearning_rate = nan", "[network] learning_rate: --lr is nan"),
    "seed too large": (f"[network]\nseed = {2**64}", "[network] seed: --seed is"),
    "epochs 0": ("[run]\nepochs = 0", "[run] epochs: --epochs is 0, expected more than 0"),
    "halving -1": ("[run]\nhalving = -1", "[run] halving: --halving is -1, expected 0 or more"),
    "no high": ("[network]\nlearning_rate = {low = 0.1}", "learning_rate: no high; expected low and high"),
    "low above high": ("[network]\nlearning_rate = {low = 0.1, high = 0.01}", "expected 0 < low < high < 1"),
    "spacing": ("[network]\nlearning_rate = {low = 0.1, high = 0.2, spacing = 'even'}", "'even' is none of log"),
    "no count": ("[network]\nlearning_rate = {low = 0.1, high = 0.2}", "learning_rate has no count"),
    "count text": ("[network]\nlearning_rate = {low = 0.1, high = 0.2, count = 'x'}", "count: found 'x', expected"),
    "network no table": ("network = 3", "[network]: found 3, expected a table"),
    "task no table": ("[tasks]\ncola = 3", "[tasks.cola]: found 3, expected a table"),
    "a task's key": ("[tasks.cola]\nhiden = 3", "[tasks.cola]: unknown hiden"),
    "a task's grid contradicts itself": (
        "[network]\nrecurrent = false\n[tasks.cola]\nattention = 'none'", "[tasks.cola]: untied without the Joiner"),
    "method": ("[search]\nmethod = 'magic'", "[search]: method 'magic' is none of grid, optuna"),
    "trials of a grid": ("[search]\ntrials = 3", '[search] trials: a grid has none; expected method = "optuna"'),
    "trials 0": ("[search]\nmethod = 'optuna'\ntrials = 0", "[search]: trials is 0, expected at least 1"),
    "a study's seed": ("[search]\nmethod = 'optuna'\nseed = 4294967296", "[search]: seed is 4294967296, expected 0"),
    "a study's lists contradict": (
        "[network]\nrecurrent = [true, false]\nattention = 'none'\n[search]\nmethod = 'optuna'", "untied without the"),
    "final seeds": ("[search]\nfinal_seeds = [0, -1]", "[search] final_seeds: --seed is -1"),
    "many seeds in a search": ("[network]\nseed = [0, 1]\n[search]\nfinal_seeds = [2]", "seed is [0, 1], expected one"),
    "count of a study": (
        "[network]\nlearning_rate = {low = 0.1, high = 0.2, count = 3}\n[search]\nmethod = 'optuna'",
        "learning_rate has count = 3: a study has"),
    "no TOML": ("[network", "is not valid TOML"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "says"), REFUSED.values(), ids=REFUSED)
def test_what_a_recipe_cannot_mean_is_refused_by_name(tmp_path, text, says) -> None:
    with pytest.raises(UserError) as refused:
        written(tmp_path, text)
    assert says in str(refused.value)
    assert str(refused.value).startswith(f"recipe {tmp_path / 'mine.toml'}")


def test_a_recipe_that_is_not_there_names_those_that_are(tmp_path) -> None:
    with pytest.raises(UserError, match="unknown recipe 'papper'; bundled: paper, sample, table2; or give a TOML file"):
        load_recipe("papper")
    with pytest.raises(UserError, match=r"none\.toml cannot be read"):
        load_recipe(str(tmp_path / "none.toml"))


def test_one_command_trains_every_store_of_a_folder_by_its_own_grid(tmp_path, words_store, models, rows_folder) -> None:
    (tmp_path / "other.toml").write_text((rows_folder / "words.toml").read_text())
    make_store(tmp_path / "stores" / "other", models["tied"], str(tmp_path / "other.toml"), rows_folder / "words")
    shutil.copytree(words_store, tmp_path / "stores" / "words")
    shutil.copytree(words_store, tmp_path / "stores" / "begun")
    (tmp_path / "stores/begun/manifest.json").rename(tmp_path / "stores/begun/plan.json")
    (tmp_path / "mine.toml").write_text(
        SMALL + "[search]\nfinal_seeds = [0, 5]\n"
        "[tasks.other]\ncell = ['rnn', 'gru']\nhidden = 64\n[tasks.none]\nhidden = 3\n"
    )
    options = ("--store", tmp_path / "stores", "--recipe", tmp_path / "mine.toml", "--out", tmp_path / "run")
    done = run_cli("train", *options, "--lr", 0.002, "--hidden", 6)
    assert done.returncode == 0, done.stderr
    assert "no store here is of task none" in done.stderr
    assert f"{tmp_path / 'stores/begun'} is left out: its extraction has not ended" in done.stderr
    assert "±" in done.stdout
    networks = {(result["task"], result["network"]) for result in read_results(tmp_path / "run")}
    assert ("words", "rnn-6-lr0.002-seed0") in networks
    assert ("words", "rnn-6-lr0.002-seed5") in networks
    assert len(networks) == 2 + 3
    again = run_cli("train", *options, "--lr", 0.002, "--hidden", 6, "--json")
    assert {(r["task"], r["network"]) for r in json.loads(again.stdout)} == networks


def test_a_bad_recipe_ends_the_command_with_one_message(tmp_path, words_store) -> None:
    (tmp_path / "mine.toml").write_text("[network]\nhidden = 'wide'\n")
    done = run_cli("train", "--store", words_store, "--recipe", tmp_path / "mine.toml", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: recipe ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
