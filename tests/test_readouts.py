"""What linear models read out of a store, and what its attention compares, against plain loops over its arrays."""

import json

import numpy as np
import pytest

from conftest import make_store
from read_cache.bench.readouts import attention_to_twins, averaged_states, bag_of_tokens, readouts, repetition
from read_cache.errors import UserError
from read_cache.scoring.baselines import baselines
from read_cache.store.reader import StoreReader


@pytest.fixture(scope="module", params=["mean", "heads"])
def store(request, tmp_path_factory, models, rows_folder) -> StoreReader:
    """Rows of which every second says its sentence twice."""
    rows = tmp_path_factory.mktemp("rows")
    for path in (rows_folder / "words").iterdir():
        found = [json.loads(line) for line in path.read_text().splitlines()]
        for row in found[::2]:
            row["sentence"] = f"{row['sentence']} {row['sentence']}"
        (rows / path.name).write_text("".join(json.dumps(row) + "\n" for row in found))
    task, path = str(rows_folder / "words.toml"), tmp_path_factory.mktemp("stores") / "words"
    return make_store(path, models["tied"], task, rows, dtype="fp32", attention=request.param)


def examples(store: StoreReader, name: str):
    """(token ids, encoder states [L+1, S, D], attention [L, S, S] averaged over heads) of each example."""
    split = store.split(name)
    for part in range(split.parts):
        arrays = split.read_part(part).arrays
        tokens = pairs = 0
        for row in range(split.plan["part_start"][part], split.plan["part_start"][part + 1]):
            length, offset = int(split.plan["length"][row]), split.plan["token_offset"][row]
            weights = arrays["encoder/attention"][..., pairs : pairs + length**2].astype(np.float32)
            weights = weights.reshape(*weights.shape[:-1], length, length)
            states = arrays["encoder/hidden"][:, tokens : tokens + length]
            weights = weights.mean(1) if weights.ndim == 4 else weights
            yield split.plan["input_ids"][offset : offset + length], states, weights
            tokens, pairs = tokens + length, pairs + length**2


def test_features_are_those_of_each_example(store) -> None:
    split = store.split("validation")
    rows = list(examples(store, "validation"))
    bag = bag_of_tokens(split, 1 + max(int(ids.max()) for ids, _, _ in rows)).toarray()
    shares, repeated = bag_of_tokens(split, bag.shape[1], averaged=True).toarray(), repetition(split)
    mean_length = np.mean([len(ids) for ids, _, _ in rows])
    states = averaged_states(store, split)
    assert len(rows) == len(bag) == split.examples
    for index, (ids, hidden, _) in enumerate(rows):
        assert np.flatnonzero(bag[index]).tolist() == sorted(set(ids.tolist()))
        np.testing.assert_allclose(shares[index], np.bincount(ids, minlength=bag.shape[1]) * mean_length / len(ids))
        assert repeated[index].tolist() == [len(ids), len(ids) - len(set(ids.tolist()))]
        normed = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(states["embeddings"][index], normed[0].mean(0), atol=1e-4)
        np.testing.assert_allclose(states["states of layer 2"][index], normed[2].mean(0), atol=1e-4)


def test_attention_to_twins_is_that_of_tokens_that_occur_twice(store) -> None:
    twins, others = [], []
    for ids, _, weights in examples(store, "validation"):
        for to in range(len(ids)):
            far = [place for place in range(len(ids)) if abs(place - to) > 3]
            same = [place for place in far if ids[place] == ids[to]]
            if len(same) == 1:
                twins.append(weights[:, to, same[0]])
                rest = [weights[:, to, place] for place in far if place != same[0]]
                others.append(np.mean(rest, axis=0) if rest else np.zeros(len(weights)))
    assert len(twins) > 5
    expected = np.stack([np.mean(twins, axis=0), np.mean(others, axis=0)], axis=1)
    np.testing.assert_allclose(attention_to_twins(store, store.split("validation")), expected, rtol=1e-3)


def test_it_prints_a_row_for_each_kind_of_feature(store, capsys) -> None:
    readouts(str(store.folder.path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| words (accuracy), a linear model of | validation | test |"
    assert [line.split(" | ")[0] for line in lines[2:8]] == [
        "| the bag of tokens", "| the average of its tokens", "| length and repeated tokens", "| embeddings",
        "| 512 random features of embeddings", "| states of layer 1",
    ]  # fmt: skip
    assert all(0 <= float(value) <= 100 for line in lines[2:8] for value in line.strip(" |").split(" | ")[1:])
    assert any(line.startswith("| encoder layer | weight on") for line in lines)


@pytest.mark.parametrize("labels", [[0] * 8, [0, 1]])
def test_a_probe_of_rows_that_tell_nothing_apart_is_constant(tmp_path, models, rows_folder, labels) -> None:
    rows = [{"sentence": "the old river", "label": label} for label in labels]
    for split, found in (("train", rows), ("validation", [*rows, rows[0], {**rows[0], "label": 1}])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    store = make_store(tmp_path / "store", models["tied"], str(rows_folder / "words.toml"), tmp_path, dtype="fp32")
    found = baselines(store, probe=True)
    assert found["linear probe"] == found["majority class"]


def test_open_tasks_have_nothing_to_read_out(tmp_path, models, rows_folder) -> None:
    path = tmp_path / "open"
    make_store(path, models["tied"], str(rows_folder / "open.toml"), rows_folder / "words", attention="none")
    with pytest.raises(UserError, match=r"task open of store .* has no labels to read out"):
        readouts(str(path))
