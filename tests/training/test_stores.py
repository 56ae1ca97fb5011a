"""One call trains on every store of a folder, each by its own grid."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from read_cache.api.training import train
from read_cache.errors import UserError
from read_cache.training.results import read_results
from read_cache.watch import Watch
from support.stores import make_store

SMALL = "[network]\ncell = 'rnn'\nhidden = 4\n[run]\nepochs = 1\nbatch_size = 8\n"


@pytest.fixture
def stores(tmp_path, words_store, models, rows_folder) -> Path:
    """Stores of the tasks `words` and `other`, and one that was only begun."""
    (tmp_path / "other.toml").write_text((rows_folder / "words.toml").read_text())
    make_store(tmp_path / "stores" / "other", models["tied"], str(tmp_path / "other.toml"), rows_folder / "words")
    for name in ("words", "begun"):
        shutil.copytree(words_store, tmp_path / "stores" / name)
    (tmp_path / "stores/begun/manifest.json").rename(tmp_path / "stores/begun/plan.json")
    return tmp_path / "stores"


def test_every_store_of_a_folder_trains_by_its_own_grid(tmp_path, stores) -> None:
    recipe = tmp_path / "mine.toml"
    text = SMALL + "[search]\nfinal_seeds = [0, 5]\n[tasks.other]\ncell = ['rnn', 'gru']\nhidden = 64\n"
    recipe.write_text(text)
    lines: list[str] = []
    settings = {"recipe": recipe, "lr": 0.002, "hidden": 6, "watch": Watch(say=lines.append)}
    results = train(stores, tmp_path / "run", **settings)
    assert any(str(stores / "begun") in line for line in lines)
    networks = {(result.task, result.network) for result in read_results(tmp_path / "run")}
    assert ("words", "read-rnn-6-lr0.002-seed0") in networks
    assert ("words", "read-rnn-6-lr0.002-seed5") in networks
    assert len(networks) == 2 + 3
    again = train(stores, tmp_path / "run", **settings)
    assert {(result.task, result.network) for result in again.results} == networks
    assert again.results == results.results
    assert [(final["task"], final["seeds"]) for final in results.finals] == [("other", 2), ("words", 2)]
    words = [result.validation for result in results.results if result.task == "words"]
    assert results.finals[1]["validation"] == pytest.approx(np.mean(words))
    assert results.finals[1]["validation ±"] == pytest.approx(np.std(words, ddof=1))


def test_mistakes_end_the_call_before_anything_is_trained(tmp_path, stores) -> None:
    recipe = tmp_path / "mine.toml"
    for text in (SMALL + "[tasks.othre]\nhidden = 3\n", SMALL.replace("4", "'wide'")):
        recipe.write_text(text)
        with pytest.raises(UserError):
            train(stores, tmp_path / "run", recipe=recipe)
    recipe.write_text(SMALL + "[tasks.words]\nattention = 'heads'\n")  # the second of two stores lacks them
    with pytest.raises(UserError, match="heads"):
        train(stores, tmp_path / "run", recipe=recipe)
    with pytest.raises(UserError, match="hiden"):
        train(stores, tmp_path / "run", hiden=8)
    assert not (tmp_path / "run").exists()
