"""Imported states make the store that an extraction of them makes, and train the same networks."""

from collections import UserList
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from safetensors.torch import save_file

import read_cache
from read_cache.errors import UserError
from read_cache.extraction.imported import ImportedStates
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store
from support.processes import contents
from support.stores import make_store

NETWORKS: dict[str, Any] = {
    "network": ["read", "read_matching", "layer_probe", "probe"], "hidden": 4, "epochs": 2, "batch_size": 8, "lr": 0.01,
}  # fmt: skip
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, bert, rows_folder) -> StoreReader:
    """A store of the tiny BERT without attention weights."""
    path = tmp_path_factory.mktemp("imported") / "extracted"
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    return make_store(path, bert, *words, attention="none", dtype="fp32", max_source_length=64)


@pytest.fixture(scope="module")
def exported(extracted, tmp_path_factory) -> dict[str, datasets.Dataset]:
    """Its states as a dataset, in the order of the rows."""
    path, cache = extracted.folder.path, str(tmp_path_factory.mktemp("cache"))
    stored = {
        split: datasets.Dataset.from_generator(
            read_cache.export_states, cache_dir=cache, gen_kwargs={"store": path, "split": split}, writer_batch_size=8
        )
        for split in SPLITS
    }
    return {split: rows.select(np.argsort(rows["example_id"])) for split, rows in stored.items()}


def imported(rows: Any, path: Path, rows_folder: Path, **settings: Any) -> StoreReader:
    given: dict[str, Any] = {"model": "bert", "dtype": "fp32", "part_tokens": 200, **settings}
    return read_cache.import_states(rows, str(rows_folder / "words.toml"), path, **given)


def test_the_states_of_a_store_make_the_same_store(extracted, exported, rows_folder, tmp_path) -> None:
    store = imported(exported, tmp_path / "store", rows_folder)
    assert list(verify_store(store)) == []
    ours, theirs = contents(tmp_path / "store"), contents(Path(extracted.folder.path))
    same = [name for name in theirs if "/encoder/hidden/c" in name or "/token/" in name or "/label/" in name]
    assert len(same) > 10
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    one = read_cache.train(store, tmp_path / "ours", **NETWORKS)
    other = read_cache.train(extracted, tmp_path / "theirs", **NETWORKS)
    for first, second in zip(one.results, other.results, strict=True):
        assert (first.network, first.history, first.test) == (second.network, second.history, second.test)
        assert (first.parameters_percent, first.parameters) == (0, second.parameters)
        assert contents(Path(first.folder))["model.safetensors"] == contents(Path(second.folder))["model.safetensors"]
    with pytest.raises(UserError, match="imported"):
        read_cache.finetune(store, tmp_path / "live", epochs=1)
    with pytest.raises(UserError, match="raw output"):
        read_cache.train(store, tmp_path / "raw", network="ladder")


def test_networks_are_evaluated_on_other_rows_of_the_model_and_attached_to_none(
    exported, rows_folder, bert, tmp_path
) -> None:
    store = imported(exported, tmp_path / "store", rows_folder)
    read_cache.train(store, tmp_path / "runs", network="probe", epochs=2)
    others = dict.fromkeys(SPLITS, exported["test"])
    more = imported(others, tmp_path / "more", rows_folder)
    assert more.manifest.identity != store.manifest.identity
    scores = {
        of.folder.path: read_cache.evaluate(of, tmp_path / "runs", split="test")[0]["metric"] for of in (store, more)
    }
    assert len(set(scores.values())) == 1
    with pytest.raises(UserError, match="imported"):
        read_cache.predict(str(bert), tmp_path / "runs", ["a river"])


@pytest.mark.parametrize(("settings", "tolerance"), [({"dtype": "int8"}, 0.05), ({"dtype": "bf16", "rank": 30}, 0.2)])
def test_smaller_formats_hold_the_states(extracted, exported, rows_folder, tmp_path, settings, tolerance) -> None:
    store = imported(exported, tmp_path / "ours", rows_folder, **settings)
    for ours, exact in zip(read_cache.export_states(store), read_cache.export_states(extracted), strict=True):
        assert ours["example_id"] == exact["example_id"]
        error = np.abs(ours["hidden_states"] - exact["hidden_states"]).max()
        assert 0 < error < tolerance * np.abs(exact["hidden_states"]).max()


def test_imported_states_are_pooled_as_those_of_an_extraction(exported, bert, rows_folder, tmp_path) -> None:
    store = imported(exported, tmp_path / "ours", rows_folder, positions="pooled")
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    other = make_store(tmp_path / "theirs", bert, *words, dtype="fp32", positions="pooled", max_source_length=64)
    for ours, theirs in zip(read_cache.export_states(store), read_cache.export_states(other), strict=True):
        assert ours["hidden_states"].shape[1] == 3  # the first token, all, and those of the text
        assert np.allclose(ours["hidden_states"], theirs["hidden_states"], atol=1e-5)


def rows_of(count: int, folder: Path | None = None) -> list[dict[str, Any]]:
    """Rows with three states of width 4, some padded; in vLLM's files if a folder is given."""
    rng, rows = np.random.default_rng(count), []
    for number in range(count):
        length = 2 + number % 3
        states = torch.from_numpy(rng.standard_normal((3, length, 4))).bfloat16()
        tokens = torch.arange(length)
        row: dict[str, Any] = {"label": number % 2}
        if folder is None:
            padding = torch.full((3, 2, 4), torch.nan, dtype=torch.bfloat16)
            row |= {"hidden_states": torch.cat([states, padding], 1), "input_ids": torch.arange(length + 2)}
            row["attention_mask"] = torch.arange(length + 2) < length
        else:
            path = folder / f"{count}-{number}.safetensors"
            save_file({"hidden_states": states.transpose(0, 1).contiguous(), "token_ids": tokens}, path)
            row["hidden_states"] = str(path)
        rows.append(row)
    return rows


def test_files_of_vllm_hold_what_rows_hold(rows_folder, tmp_path) -> None:
    in_memory = {"train": rows_of(9), "validation": rows_of(6)}
    in_files = {"train": rows_of(9, tmp_path), "validation": datasets.Dataset.from_list(rows_of(6, tmp_path))}
    stores = [
        imported(rows, tmp_path / name, rows_folder, dtype="bf16") for name, rows in (("a", in_memory), ("b", in_files))
    ]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for row in read_cache.export_states(stores[0]):
        expected = rows_of(9)[row["example_id"]]
        mask = expected["attention_mask"]
        assert np.array_equal(row["hidden_states"], expected["hidden_states"][:, mask].float().numpy())
        assert np.array_equal(row["input_ids"], expected["input_ids"][mask].numpy())
    assert imported(in_memory, tmp_path / "a", rows_folder, dtype="bf16").manifest == stores[0].manifest


def test_an_import_that_was_interrupted_continues(rows_folder, tmp_path, monkeypatch) -> None:
    rows = {"train": rows_of(30), "validation": rows_of(6)}
    settings = {"part_tokens": 16}
    imported(rows, tmp_path / "whole", rows_folder, **settings)
    calls, batch = iter(range(100)), ImportedStates.batch

    def interrupted(*args: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return batch(*args)

    monkeypatch.setattr(ImportedStates, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        imported(rows, tmp_path / "store", rows_folder, **settings)
    with pytest.raises(UserError, match="not complete"):
        read_cache.open_store(tmp_path / "store")
    imported(rows, tmp_path / "store", rows_folder, **settings)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    assert next(calls) < 5 + len(list((tmp_path / "store").glob("arrays.zarr/*/done/c/*")))


def test_one_vector_a_row_makes_one_position(rows_folder, tmp_path) -> None:
    rows = [{"hidden_states": np.full((2, 4), float(number)).tolist(), "label": number % 2} for number in range(1, 9)]
    store = imported({"train": rows, "validation": rows}, tmp_path / "store", rows_folder)
    for row in read_cache.export_states(store, "validation"):
        assert np.array_equal(row["hidden_states"], np.full((2, 1, 4), row["example_id"] + 1))
    read_cache.train(store, tmp_path / "runs", network="probe", epochs=1)


def test_values_of_numpy_and_torch_are_those_of_python(rows_folder, tmp_path) -> None:
    """Labels as numpy counts them, and states that still have their graph."""
    states = torch.ones(2, 3, 4, requires_grad=True) * 2
    rows = [{"hidden_states": states, "label": label} for label in (np.int64(0), torch.tensor(1))]
    plain = [{"hidden_states": np.full((2, 3, 4), 2.0), "label": label} for label in (0, 1)]
    for name, given in (("arrays", rows), ("plain", plain)):
        imported({"train": given, "validation": given}, tmp_path / name, rows_folder)
    assert contents(tmp_path / "arrays") == contents(tmp_path / "plain")


GOOD: dict[str, Any] = {"hidden_states": np.ones((2, 3, 4)), "label": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_states": np.ones((1, 3, 4))}, r"row 1.*\(1, 3, 4\)"),
        ({"hidden_states": np.ones((2, 3, 5))}, "row 1.*width 5"),
        ({"hidden_states": [[1, 2], [3]]}, "row 1.*numbers"),
        ({"hidden_states": "nowhere.safetensors"}, "row 1.*nowhere"),
        ({"input_ids": [1, 2]}, r"row 1.*input_ids.*\[3\]"),
        ({"attention_mask": [0, 0, 0]}, "row 1.*attention_mask"),
        ({"segment": [0, 0, 1]}, "row 1.*segment"),
        ({"segment": [0, 0, 200]}, "row 1.*segment.*200"),
        ({"input_ids": [0.5, 1, 2]}, r"row 1.*input_ids.*0\.5"),
        ({"input_ids": [np.nan, 1, 2]}, "row 1.*input_ids.*nan"),
        ({"hidden_states": np.ones((2, 3, 4), np.uint16)}, "row 1.*uint16.*export_states"),
        ({"hidden_states": np.ones((2, 3, 4), complex)}, "row 1.*complex"),
        ({"hidden_states": np.full((2, 3, 4), np.inf)}, "row 1.*finite"),
        ({"label": 7}, "row 1.*label"),
    ],
)
def test_a_bad_row_is_named(rows_folder, tmp_path, change, words) -> None:
    with pytest.raises(UserError, match=words):
        imported({"train": [GOOD, GOOD | change], "validation": [GOOD]}, tmp_path / "store", rows_folder)
    assert not (tmp_path / "store").exists()


def test_a_mask_and_segments_beside_a_file_are_read(rows_folder, tmp_path) -> None:
    rows = [row | {"attention_mask": [0, 1, 1, 1], "segment": [9, -1, 0, -1]} for row in rows_of(3, tmp_path)[2:]]
    store = imported({"train": rows, "validation": rows}, tmp_path / "store", rows_folder)
    (row,) = read_cache.export_states(store)
    assert (row["input_ids"].tolist(), row["segment"].tolist()) == ([1, 2, 3], [-1, 0, -1])
    assert row["hidden_states"].shape == (3, 3, 4)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (pandas.DataFrame([GOOD]), "DataFrame.*from_pandas"),
        ({"hidden_states": [GOOD["hidden_states"]], "label": [0]}, "dict.*from_"),
        (np.zeros((4, 2, 3, 4)), "ndarray.*from_"),
        ([(GOOD["hidden_states"], 0)], "train row 0 is of type tuple"),
        ([None], "train row 0 is of type NoneType"),
    ],
    ids=["frame", "columns", "array", "tuples", "none"],
)
def test_other_containers_of_rows_are_refused(rows_folder, tmp_path, rows, words) -> None:
    with pytest.raises(UserError, match=words):
        imported({"train": rows, "validation": [GOOD]}, tmp_path / "store", rows_folder)


def test_rows_that_change_between_the_two_reads_are_refused(rows_folder, tmp_path) -> None:
    class Changing(UserList[Any]):
        reads = 0

        def __getitem__(self, number: Any) -> Any:
            self.reads += 1
            return GOOD | {"hidden_states": np.ones((2, 4 - self.reads, 4))}

    with pytest.raises(UserError, match=r"train row 0 .*\(2, 2, 4\).*\(2, 3, 4\)"):
        imported({"train": Changing([GOOD]), "validation": [GOOD]}, tmp_path / "store", rows_folder)


def test_settings_are_checked_before_a_row_is_read(rows_folder, tmp_path) -> None:
    with pytest.raises(UserError, match="bf61"):
        imported({"train": [None], "validation": [None]}, tmp_path / "store", rows_folder, dtype="bf61")


def test_other_states_and_settings_are_refused(rows_folder, tmp_path) -> None:
    rows = {"train": rows_of(5), "validation": rows_of(4)}
    imported(rows, tmp_path / "store", rows_folder)
    before = contents(tmp_path / "store")
    changed = rows | {"train": [*rows["train"][:4], rows["validation"][0]]}
    for given, settings in ((changed, {}), (rows, {"dtype": "bf16"})):
        with pytest.raises(UserError, match="other settings or rows"):
            imported(given, tmp_path / "store", rows_folder, **settings)
    assert contents(tmp_path / "store") == before
    with pytest.raises(UserError, match="attention"):
        imported(rows, tmp_path / "other", rows_folder, attention="mean")
    with pytest.raises(UserError, match="open target"):
        read_cache.import_states(rows, str(rows_folder / "open.toml"), tmp_path / "open", model="bert")
    with pytest.raises(UserError, match="by split"):
        imported(rows["train"], tmp_path / "open", rows_folder)
    with pytest.raises(UserError, match="stack is 'decoder'"):
        read_cache.export_states(tmp_path / "store", stack="decoder")
    with pytest.raises(UserError, match="generator"):
        imported({"train": (row for row in ())}, tmp_path / "open", rows_folder)
