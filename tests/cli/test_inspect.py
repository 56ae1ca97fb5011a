"""`read-cache inspect`: facts of a store, complete or not, and a picture."""

import json
import shutil
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from read_cache.store.reader import StoreReader, array_bytes
from support.processes import run


def test_the_facts_are_those_of_the_manifest(words_store: Path, command) -> None:
    out, _ = command("inspect", words_store, "--json")
    found, manifest = json.loads(out), StoreReader(words_store).manifest
    assert found["bytes"] == array_bytes(manifest)
    assert {name: (row["rows"], row["parts"]) for name, row in found["splits"].items()} == {
        name: (split.examples, split.parts) for name, split in manifest.splits.items()
    }
    assert found["facts"]["identity"] == manifest.identity
    assert found["facts"]["complete"] == "yes"
    assert found["facts"]["encoder"].startswith("layers 1-3 of 3, width ")
    plain, _ = command("inspect", words_store)
    assert all(value in plain for value in found["facts"].values())
    assert "bytes a token" in plain


def test_a_store_that_is_not_complete_has_facts_and_no_picture(words_store, tmp_path, monkeypatch, capsys) -> None:
    store = shutil.copytree(words_store, tmp_path / "store")
    (store / "manifest.json").rename(store / "plan.json")
    code, out, _ = run(["inspect", store, "--json"], monkeypatch, capsys)
    assert code == 0
    assert json.loads(out)["facts"]["complete"].startswith("no")
    code, _, err = run(["inspect", store, "--plot", tmp_path / "a.png"], monkeypatch, capsys)
    assert (code, "not complete" in err) == (2, True)


def test_a_picture_is_the_same_each_time_and_nothing_else_is_written(words_store, tmp_path, command) -> None:
    before = sorted(words_store.rglob("*"))
    pictures = [tmp_path / "new" / "a.png", tmp_path / "new" / "b.png"]
    for picture in pictures:
        _, err = command("inspect", words_store, "--plot", picture, "--sample-rows", 8)
        assert str(picture) in err
    assert sorted(words_store.rglob("*")) == before
    assert [path.name for path in sorted(pictures[0].parent.iterdir())] == ["a.png", "b.png"]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert np.ptp(imread(pictures[0])) > 0.5


def test_what_is_left_out_is_told(models, rows_folder, tmp_path, command) -> None:
    rows = ("--task", rows_folder / "words.toml", "--dataset", rows_folder / "words", "--attention", "none")
    command("extract", "--model", models["tied"], *rows, "--store", tmp_path / "store")
    _, err = command("inspect", tmp_path / "store", "--plot", tmp_path / "a.png")
    assert "entropy of attention" in err


def test_bad_input_ends_in_one_message(words_store, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "file").touch()
    for words, name in (
        (["inspect", tmp_path / "nowhere"], "nowhere"),
        (["inspect", words_store, "--plot", tmp_path / "a.html"], "a.html"),
        (["inspect", words_store, "--plot", tmp_path / "file" / "a.png"], "file"),
        (["inspect", words_store, "--plot", tmp_path / "a.png", "--sample-rows", "0"], "sample"),
    ):
        code, _, err = run(words, monkeypatch, capsys)
        assert (code, name in err, "Traceback" in err) == (2, True, False), err
