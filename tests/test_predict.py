"""`read-cache predict`: in the order of the lines, as evaluated, in bounded memory, and on after a kill."""

import itertools
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from conftest import run_cli
from processes import run as run_here
from read_cache.errors import UserError
from read_cache.live.predict import Line, Predictor
from read_cache.live.predictions import PredictionFile, predicting_alone
from read_cache.networks.saved import find_networks
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.train.grid import NetworkConfig, TrainConfig, grid
from read_cache.train.run import train_store

LABELS = ["no", "yes it is", "yes it was"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, words_store) -> Path:
    """Three trained networks of the `words` task."""
    out = tmp_path_factory.mktemp("run")
    from read_cache.networks.config import ReadConfig

    networks = grid([ReadConfig("rnn", 8)], [5e-3], [0, 1, 2])
    train_store(StoreFolder(words_store), out, networks, TrainConfig(epochs=3, batch_size=8))
    return out


@pytest.fixture(scope="module")
def lines(rows_folder) -> list[Line]:
    """The test split's rows as jsonl lines."""
    source = (rows_folder / "words" / "test.jsonl").read_text().splitlines()
    return list(enumerate(source, start=1))


@pytest.fixture(scope="module")
def predictor(run, models) -> Predictor:
    """Batches of two, four of which are looked at together."""
    return Predictor(str(models["tied"]), find_networks([run]), batch_size=2, look_ahead=2)


def test_predictions_come_in_order_whatever_shares_a_batch(predictor, lines) -> None:
    found = list(predictor.predict(lines))
    assert [of_line[0].line for of_line in found] == [number for number, _ in lines]
    lengths = [len(of_line[0].text) for of_line in found]
    assert lengths != sorted(lengths, reverse=True), "or nothing was put back in order"
    for of_line, (_, source) in zip(found, lines, strict=True):
        assert of_line[0].text == f"words: {json.loads(source)['sentence']}"
        assert tuple(one.network for one in of_line) == predictor.names
        (alone,) = predictor.predict([(1, source)])
        for together, one in zip(of_line, alone, strict=True):
            assert together.probabilities == pytest.approx(one.probabilities, abs=0.02)


def test_a_byte_order_mark_is_no_text_and_cut_texts_are_counted(tmp_path, run, models, monkeypatch, capsys) -> None:
    file, row = tmp_path / "rows.jsonl", json.dumps({"sentence": "the river"})
    told = []
    for text in (row, "\ufeff" + row, "the river " * 200):
        file.write_text(text + "\n", encoding="utf-8")
        words = ["predict", "--network", run, "--model", models["tied"], "--file", file, "--json"]
        code, out, err = run_here(words, monkeypatch, capsys)
        assert code == 0, err
        told.append(out)
        assert ("1 of this run's texts are longer than 128 tokens and were cut" in err) == (len(text) > 1000)
    assert told[0] == told[1]
    for again in (False, True):
        code, _, err = run_here([*words, "--out", tmp_path / "out.jsonl"], monkeypatch, capsys)
        assert code == 0, err
        assert ("were cut" in err) != again


def test_predictions_score_what_training_reported(predictor, run, lines) -> None:
    found = list(predictor.predict(lines))
    results = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert len(results) == 3
    for result in results:
        own = [one.label for of_line in found for one in of_line if one.network == result["network"]]
        gold = [LABELS[json.loads(source)["label"]] for _, source in lines]
        assert 100 * np.mean(np.array(own) == np.array(gold)) == pytest.approx(result["test"])


def test_no_more_lines_are_read_than_are_looked_at_together(predictor, lines) -> None:
    """A file without end is predicted as far as anyone asks."""
    read = 0

    def endless():
        nonlocal read
        for read, (_, source) in enumerate(itertools.cycle(lines), start=1):
            yield read, source

    for done, _ in enumerate(itertools.islice(predictor.predict(endless()), 21), start=1):
        assert done <= read <= -(-done // 4) * 4


@pytest.mark.parametrize("cut", [0, 1, 300, 1500, 2000, 4000, 10**6])
def test_a_file_that_was_cut_goes_on_to_the_same_bytes(tmp_path, predictor, lines, cut) -> None:
    whole = PredictionFile(tmp_path / "whole.jsonl", predictor)
    assert list(whole.append(predictor.predict(whole.remaining(iter(lines))))) == list(range(1, len(lines) + 1))
    content = whole.path.read_bytes()
    assert content.count(b"\n") == 3 * len(lines)
    path = tmp_path / "cut.jsonl"
    path.write_bytes(content[:cut])
    file = PredictionFile(path, predictor)
    remaining = list(file.remaining(iter(lines)))
    assert file.done == (len(lines) if cut == 10**6 else content[:cut].count(b"\n") // 3 // 4 * 4)
    assert [number for number, _ in remaining] == list(range(file.done + 1, len(lines) + 1))
    list(file.append(predictor.predict(remaining)))
    assert path.read_bytes() == content


def test_a_longer_input_goes_on_after_a_complete_file(tmp_path, predictor, lines) -> None:
    for some in (lines[:5], lines):
        file = PredictionFile(tmp_path / "out.jsonl", predictor)
        list(file.append(predictor.predict(file.remaining(iter(some)))))
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["line"] for one in found] == [number for number, _ in lines for _ in predictor.names]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"sentence": "mine"}\n', "is no file of predictions"),
        (b"my notes\n", "is no file of predictions"),
        (
            b'{"line": 1, "text": "words: x", "network": "other", "label": "no", "probabilities": {}}\n',
            "other networks",
        ),
        (b"\xff\xfe\n", "is no file of predictions"),
    ],
)
def test_a_file_that_is_no_part_of_this_run_is_left_alone(tmp_path, predictor, lines, content, message) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        PredictionFile(path, predictor).remaining(iter(lines))
    assert path.read_bytes() == content


def test_predictions_of_another_input_are_left_alone(tmp_path, predictor, lines) -> None:
    path = tmp_path / "out.jsonl"
    list(PredictionFile(path, predictor).append(predictor.predict(lines)))
    before = path.read_bytes()
    for other in (lines[1:], lines[:4], [*lines[:3], (4, '{"sentence": "new"}'), *lines[4:]]):
        with pytest.raises(UserError, match="predictions of another input: its line"):
            PredictionFile(path, predictor).remaining(iter(other))
    assert path.read_bytes() == before


def test_predictions_of_a_network_that_was_trained_again_are_left_alone(tmp_path, predictor, lines) -> None:
    path = tmp_path / "predictions.jsonl"
    file = PredictionFile(path, predictor)
    list(file.append(predictor.predict(file.remaining(iter(lines)))))
    one, *others = path.read_text().splitlines()
    changed = json.loads(one)
    shares = list(changed["probabilities"].values())
    changed["probabilities"] = dict(zip(changed["probabilities"], [shares[1] + 0.1, *shares[1:]], strict=True))
    path.write_text("\n".join([json.dumps(changed), *others]) + "\n")
    before = path.read_bytes()
    for given in (lines, [*lines, (len(lines) + 1, lines[0][1])]):
        with pytest.raises(UserError, match=r"holds predictions of another network rnn.*to its line 1"):
            PredictionFile(path, predictor).remaining(iter(given))
    assert path.read_bytes() == before


def test_two_do_not_write_one_file(tmp_path) -> None:
    path = tmp_path / "predictions.jsonl"
    refused = pytest.raises(UserError, match=r"another process is writing .* wait for it")
    with predicting_alone(path), refused, predicting_alone(path):
        pass
    with predicting_alone(path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_command_writes_tells_progress_and_names_the_line_that_is_wrong(tmp_path, run, models, lines) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    good = [json.loads(line)["sentence"] for _, line in lines]
    source.write_text("\n".join([good[0], "", *good[1:], "too\tmany", good[0]]) + "\n", encoding="utf-8")
    options = ("--model", models["tied"], "--network", run, "--file", source, "--out", out)
    done = run_cli("predict", *options, "--batch-size", 2)
    assert done.returncode == 2
    assert f"line {len(good) + 2} has 2 texts, task words needs 1" in done.stderr
    source.write_text(source.read_text().replace("too\tmany\n", ""), encoding="utf-8")
    done = run_cli("predict", *options, "--batch-size", 2)
    assert (done.returncode, done.stdout) == (0, "")
    assert "ETA" in done.stderr
    assert f"{len(good) + 1} lines by 3 networks are in {out}" in done.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["line"] for one in found[::3]] == [1, *range(3, len(good) + 2), len(good) + 2]


def test_networks_of_one_name_are_told_apart_by_their_folders(run, models, words_store, tmp_path) -> None:
    from read_cache.networks.config import ReadConfig

    network = NetworkConfig(ReadConfig("rnn", 8), 5e-3, 0)
    train_store(StoreFolder(words_store), tmp_path, [network], TrainConfig(epochs=1))
    folders = find_networks([run, tmp_path])
    names = Predictor(str(models["tied"]), folders).names
    twins = [str(folder) for folder in folders if folder.name == network.name]
    assert len(twins) == 2
    assert names[0] == twins[0]
    assert names[1:3] == (folders[1].name, folders[2].name)
    assert names[3] == twins[1]


def test_the_model_card_holds_the_command_that_makes_the_network_again(run, words_store, tmp_path) -> None:
    folder = find_networks([run])[1]
    card = (folder / "README.md").read_text()
    manifest, result = (
        StoreReader(words_store).manifest,
        json.loads((run / "results.jsonl").read_text().splitlines()[1]),
    )
    assert manifest.digest in card
    assert manifest.backbone.digest in card
    assert f"| validation | {result['validation']:.2f} | {result['best_epoch']} |" in card
    assert f"| test | {result['test']:.2f} | {result['best_epoch']} |" in card
    assert re.search(r"with read-cache [\d.]+, torch \d", card)
    command = shlex.split(next(line for line in card.splitlines() if "read-cache train" in line))
    places = {"STORE": words_store, "OUT": tmp_path}
    done = run_cli(*[places.get(word, word) for word in command[1:]])
    assert done.returncode == 0, done.stderr
    (again,) = find_networks([tmp_path])
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
