"""A file of predictions resumes after a kill, and a file of anything else is left alone."""

import json
from pathlib import Path

import pytest

from read_cache.config import PredictConfig
from read_cache.errors import UserError
from read_cache.live.predict import Line, Predictor
from read_cache.live.predictions import PredictionFile, predicting_alone
from read_cache.networks.saved import find_networks, save_network
from support.backbones import decoder_folder
from support.live import make_stores, network_of, saved_weights
from support.stores import make_store

CASES = {
    "bf16": [("read", {}), ("ladder", {"reduction": 2}), ("probe", {})],
    "bert-bf16": [("read", {}), ("read_matching", {}), ("probe", {})],
    "open": [("read", {}), ("read_matching", {}), ("ladder", {"reduction": 2})],
    "llama": [("read", {}), ("read_matching", {}), ("ladder", {"reduction": 2})],
}
"""Labels of a T5, scores of a BERT, generated text, labels of a decoder-only model; three networks each."""


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory, rows_folder) -> tuple[Predictor, list[Line]]:
    """A predictor with batches of two, two of which are looked at together; and the test split's rows."""
    name, folder = request.param, tmp_path_factory.mktemp("predictions")
    if name == "llama":
        words = str(rows_folder / "words.toml"), rows_folder / "words"
        store = make_store(folder / "store", decoder_folder("llama"), *words)
    else:
        store = make_stores(folder / "stores", rows_folder, name)[name]
    for kind, settings in CASES[name]:
        one = network_of(store, kind, **settings)
        save_network(folder / "run" / kind, one.record, saved_weights(one), one.calibration)
    rows = rows_folder / ("scores" if name == "bert-bf16" else "words") / "test.jsonl"
    config = PredictConfig(batch_size=2, look_ahead=2, max_new_tokens=4)
    predictor = Predictor(store.manifest.backbone.name, find_networks([folder / "run"]), config)
    return predictor, list(enumerate(map(json.loads, rows.read_text().splitlines()), start=1))


@pytest.fixture(scope="module")
def predictor(case) -> Predictor:
    return case[0]


@pytest.fixture(scope="module")
def lines(case) -> list[Line]:
    return case[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, predictor, lines) -> Path:
    """The file of a run that nobody disturbed."""
    file = PredictionFile(tmp_path_factory.mktemp("whole") / "whole.jsonl", predictor)
    done = list(file.append(predictor.predict(file.remaining(iter(lines)))))
    assert done == list(range(1, len(lines) + 1))
    return file.path


@pytest.mark.parametrize("cut", [0, 1, 300, 1500, 2000, 4000, 10**6])
def test_a_file_that_was_cut_goes_on_to_the_same_bytes(tmp_path, predictor, lines, whole, cut) -> None:
    content = whole.read_bytes()
    assert content.count(b"\n") == 3 * len(lines)
    path = tmp_path / "cut.jsonl"
    path.write_bytes(content[:cut])
    file = PredictionFile(path, predictor)
    remaining = list(file.remaining(iter(lines)))
    complete = content[:cut].count(b"\n") // 3
    assert file.done == complete // 4 * 4
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


def test_predictions_of_another_input_are_left_alone(tmp_path, predictor, lines, whole) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(before := whole.read_bytes())
    new = {"sentence": "new", "sentence1": "new", "sentence2": "old"}
    for other in (lines[1:], lines[:4], [*lines[:3], (4, new), *lines[4:]]):
        with pytest.raises(UserError, match="predictions of another input: its line"):
            PredictionFile(path, predictor).remaining(iter(other))
    assert path.read_bytes() == before


def test_two_do_not_write_one_file(tmp_path) -> None:
    path = tmp_path / "predictions.jsonl"
    refused = pytest.raises(UserError, match=r"another process is writing .* wait for it")
    with predicting_alone(path), refused, predicting_alone(path):
        pass
    with predicting_alone(path):
        pass
    assert not list(tmp_path.iterdir())
