"""A comparison on a tiny T5: equal terms, one row a method, costs that add up, and nothing done twice."""

import json
from pathlib import Path

import pytest

import read_cache
from read_cache.backbones import open_backbone
from read_cache.comparison import Comparison
from read_cache.comparison import run as module
from read_cache.comparison.table import overview
from read_cache.errors import UserError
from read_cache.methods.base import METHODS
from read_cache.networks.base import NETWORKS
from read_cache.report.frames import read_runs
from read_cache.store.reader import StoreReader
from read_cache.training.results import read_results
from support.outside import Biases, Smooth

RUN = {"epochs": 1, "batch_size": 8, "seed": [0, 1], "read.hidden": 4, "read.lr": [0.001, 0.003]}
KINDS = ["lora", "read", "biases", "smooth"]


@pytest.fixture(scope="module", autouse=True)
def registered():
    """A method and a network from outside the package: a comparison takes any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "biases", Biases)
        patch.setitem(NETWORKS, "smooth", Smooth)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def compared(words_store, out) -> Comparison:
    return read_cache.compare(words_store, out, method=KINDS, **RUN)


def rows(table: Comparison) -> dict[str, dict]:
    return {record["method"]: record for record in table}


def test_a_row_for_each_baseline_and_method(compared, out) -> None:
    found = rows(compared)
    assert list(found) == ["majority class", "untrained backbone", *KINDS]
    results = read_results(out)
    for kind in KINDS:
        row, tried = found[kind], [result for result in results if result.kind == kind]
        chosen = [result for result in tried if result.learning_rate == row["learning_rate"]]
        assert (row["networks_tried"], row["seeds"]) == (len(tried), 2)
        assert row["test"] == pytest.approx(sum(result.test for result in chosen) / 2)
        assert row["num_trainable_params"] == chosen[0].parameters
        assert row["file_size"] > 4 * row["num_trainable_params"]
        assert row["search_time"] == pytest.approx(
            sum(json.loads(text)["wall_seconds"] for text in {json.dumps(result.readings) for result in tried})
        )
    assert {row["networks_tried"] for row in found.values() if "seeds" in row} == {2, 3}
    assert {result.learning_rate for result in results if result.kind == "read"} == {0.001, 0.003}


def test_all_trained_on_equal_terms(compared, out) -> None:
    assert len({json.dumps(result.run) for result in read_results(out)}) == 1
    assert {json.dumps(result.examples) for result in read_results(out)} == {json.dumps(read_results(out)[0].examples)}
    assert compared.facts["run"]["batch_size"] == 8


def test_the_extraction_is_booked_to_methods_that_need_it(compared) -> None:
    for kind, row in rows(compared).items():
        if kind in METHODS:
            assert row["extraction_time"] == 0.0
            assert row["total_time"] == row["total_time_96_networks"] == row["train_time"]
    # the support's store keeps no readings of its extraction
    assert rows(compared)["read"]["extraction_time"] is None
    assert rows(compared)["read"]["total_time"] is None


def test_shares_of_tied_and_untied_totals(compared, words_store) -> None:
    backbone = open_backbone(StoreReader(words_store).manifest.backbone.name)
    head = backbone.module.get_output_embeddings().weight.numel()
    row = rows(compared)["lora"]
    assert row["num_total_params"] == sum(weight.numel() for weight in backbone.module.parameters())
    ratio = row["trainable_percent_untied"] / row["trainable_percent"]
    assert ratio == pytest.approx(row["num_total_params"] / (row["num_total_params"] + head))


def test_the_files(compared, out) -> None:
    written = json.loads((out / "compare.json").read_text())
    assert written["methods"] == json.loads(json.dumps(list(compared)))
    assert {"cores", "torch"} <= written["machine"].keys()
    lines = (out / "compare.csv").read_text().splitlines()
    assert len(lines) == 1 + len(compared)
    assert lines[0].split(",") == compared.columns
    text = (out / "compare.md").read_text()
    assert "|  | majority class | untrained backbone | lora | read | biases | smooth |" in text
    assert f"| kept_bytes | – | – | {rows(compared)['lora']['kept_bytes']:,} |" in text
    assert len(read_runs([out])) == len(read_results(out))


def test_again_nothing_is_trained_or_measured(compared, out, words_store, monkeypatch) -> None:
    monkeypatch.setattr(module, "measure_step", None)
    monkeypatch.setattr("read_cache.training.run.train_group", None)
    before = (out / "results.jsonl").read_bytes()
    again = read_cache.compare(str(words_store), out, method=KINDS, **RUN)
    assert list(again) == list(compared)
    assert (out / "results.jsonl").read_bytes() == before


def test_a_comparison_that_was_killed_while_it_measured(compared, out, words_store, monkeypatch) -> None:
    [path] = out.glob("*/lora-*.step.json")
    whole = path.read_text()
    path.write_text(whole[:20])
    monkeypatch.setattr("read_cache.training.run.train_group", None)
    again = read_cache.compare(words_store, out, method=["lora"], epochs=1, batch_size=8, seed=[0, 1])
    assert rows(again)["lora"]["kept_bytes"] == rows(compared)["lora"]["kept_bytes"]
    assert json.loads(path.read_text()).keys() == json.loads(whole).keys()


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"method": "nothing"}, ["nothing", "lora", "read"]),
        ({"method": "read", "lora.rank": 4}, ["lora.rank", "read"]),
        ({"method": "read", "read.epochs": 0}, ["epochs", "0"]),
        ({"method": "read", "lora.epochs": 4}, ["lora.epochs", "read"]),
        ({"method": "read", "read.rank": 4}, ["rank", "hidden"]),
        ({"method": ["read", "lora"], "halving": 1}, ["halving is 1", "live method", "set halving to 0"]),
    ],
)
def test_what_is_refused(words_store, tmp_path, settings, facts) -> None:
    with pytest.raises(UserError) as refused:
        read_cache.compare(words_store, tmp_path, **settings)
    assert all(fact in str(refused.value) for fact in facts)
    assert not (tmp_path / "results.jsonl").exists()


def test_a_method_without_a_test_metric_leaves_the_others_as_they_are_in_the_overview() -> None:
    records = [
        {"method": "read", "test": 70.0, "validation": 80.0},
        {"method": "probe", "test": None, "validation": 60.0},
    ]
    other = [
        {"method": "read", "test": 75.0, "validation": 90.0},
        {"method": "probe", "test": 50.0, "validation": 60.0},
    ]
    rows = overview([Comparison(records, {"task": "a"}), Comparison(other, {"task": "b"})]).set_index("method")
    assert (rows.loc["read", "mean"], rows.loc["probe", "mean"]) == (72.5, None)
    none = [{"method": "read", "validation": 90.0}]
    (row,) = overview([Comparison(records, {"task": "a"}), Comparison(none, {"task": "b"})]).to_dict("records")[:1]
    assert row["mean"] == 85.0
