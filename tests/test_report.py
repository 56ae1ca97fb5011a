"""`read-cache report`: the choice on validation, numbers that are the results', a page that needs nothing else."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import run_cli
from processes import contents, run
from read_cache.errors import UserError
from read_cache.networks.config import ReadConfig
from read_cache.report.aggregate import StoreResults, average_test, by_store, spread
from read_cache.report.curves import NAMED, curves_figure
from read_cache.report.measured import measured
from read_cache.report.rates import rates_figure
from read_cache.report.write import read_report, write_report
from read_cache.store.manifest import StoreFolder
from read_cache.train.grid import TrainConfig, grid
from read_cache.train.learner import Learner
from read_cache.train.results import Result, append_results, read_results
from read_cache.train.run import train_store

SICK = "rnn-4-lr0.01-seed1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, words_store: Path) -> Path:
    """A run of two shapes, two rates and two seeds, where the loss of one network becomes NaN in the first epoch."""
    original = Learner.train_step

    def poisoned(self: Learner, *batch: object) -> None:
        if self.config.name == SICK:
            torch.nn.init.constant_(self.network.U, float("nan"))
        original(self, *batch)

    folder = tmp_path_factory.mktemp("report") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "train_step", poisoned)
        reads = [ReadConfig("rnn", 4), ReadConfig("gru", 4)]
        train_store(StoreFolder(words_store), folder, grid(reads, [0.001, 0.01], [0, 1]), TrainConfig(epochs=2))
    return folder


def changed(result: Result, label: str, seed: int, validation: float | None, **others: object) -> Result:
    """The result of another network of another configuration."""
    values = {"network": f"{label}-seed{seed}", "seed": seed, "validation": validation, "test": validation, **others}
    return {**result, "learning_rate": float(label.rpartition("-lr")[2]), **values}


def store_of(results: list[Result]) -> StoreResults:
    """The only store of some results."""
    (store,) = by_store(results)
    return store


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""


def test_the_page_needs_nothing_else_and_holds_the_same_pictures(trained, tmp_path) -> None:
    text = write_report(trained, tmp_path, read_report(trained)).read_text()
    page = Page(text)
    sources = [value for name, value in page.attributes if name == "src"]
    embedded = {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources}
    assert embedded == {path.read_bytes() for path in tmp_path.glob("*.png")}
    assert len(embedded) == 2
    anchors = {value for name, value in page.attributes if name == "id"}
    assert all(value[1:] in anchors and value[0] == "#" for name, value in page.attributes if name == "href")
    assert not any(word in text for word in ("http:", "https:", "url(", "@import", "<script", "<link"))


def test_the_same_run_gives_the_same_bytes_whatever_the_users_style(trained, tmp_path) -> None:
    write_report(trained, tmp_path / "here", read_report(trained))
    style = tmp_path / "matplotlibrc"
    style.write_text("lines.linewidth: 9\nsavefig.dpi: 30\nfont.size: 30\nsavefig.bbox: tight\n")
    done = run_cli("report", trained, "--out", tmp_path / "there", MATPLOTLIBRC=str(style))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_numbers_are_those_of_the_results(trained, monkeypatch, capsys) -> None:
    code, out, err = run(["report", trained, "--json"], monkeypatch, capsys)
    assert code == 0
    assert str(trained / "report" / "index.html") in err
    told = json.loads(out)["tasks"][0]
    page = Page((trained / "report" / "index.html").read_text()).text
    results = [r for r in read_results(trained) if r["network"].rpartition("-seed")[0] != SICK.rpartition("-seed")[0]]
    configurations = {r["network"].rpartition("-seed")[0] for r in results}
    scores = {c: [r["validation"] for r in results if r["network"].startswith(f"{c}-")] for c in configurations}
    chosen = told["chosen"]["configuration"]
    assert np.mean(scores[chosen]) == max(map(np.mean, scores.values()))
    tests = [r["test"] for r in results if r["network"].startswith(f"{chosen}-")]
    assert told["chosen"]["test"] == {"mean": np.mean(tests), "deviation": pytest.approx(np.std(tests, ddof=1)), "n": 2}
    assert f"{np.mean(tests):.2f} ± {np.std(tests, ddof=1):.2f}, over 2 seeds" in page
    assert f"{told['chosen']['parameters']:,}" in page


def test_a_network_that_stopped_is_named_with_the_reason(trained, monkeypatch, capsys) -> None:
    store = read_report(trained).stores[0]
    sick = next(c for c in store.configurations if c.label == "rnn-4-lr0.01")
    assert (sick.seeds, store.configurations[-1]) == (1, sick)
    code, out, _ = run(["report", trained, "--json"], monkeypatch, capsys)
    assert code == 0
    assert json.loads(out)["tasks"][0]["stopped"] == [
        {"network": SICK, "epochs": 0, "stopped": "loss became nan at step 0"}
    ]
    page = Page((trained / "report" / "index.html").read_text()).text
    assert "7 ran all epochs, 0 stopped early by patience, 1 for another reason" in page
    assert "loss became nan at step 0" in page


def test_pictures_show_the_results(trained) -> None:
    store = read_report(trained).stores[0]
    panels = curves_figure(store).axes
    for key, axes in zip(("train_loss", "validation_loss", "validation"), panels, strict=True):
        drawn = sorted(tuple(line.get_ydata()) for line in axes.lines)
        assert drawn == sorted(tuple(entry[key] for entry in result["history"]) for result in store.results)
    named = {line.get_label() for line in panels[2].lines if not line.get_label().startswith("_")}
    assert len(named) == NAMED
    assert SICK not in named
    for axes in rates_figure(store).axes:
        lines = {line.get_label(): line for line in axes.lines}
        shown = [c for c in store.configurations if c.shape == axes.get_title()]
        means = sorted((c.learning_rate, c.validation.mean) for c in shown)
        assert list(zip(*lines["mean over seeds"].get_data(), strict=True)) == means
        assert ("a seed that finished no epoch" in lines) == (axes.get_title() == "rnn-4")
        assert ("chosen" in lines) == (store.chosen in shown)


def test_one_rate_has_no_picture_but_a_sentence(trained, tmp_path) -> None:
    run_folder = tmp_path / "one"
    run_folder.mkdir()
    append_results(run_folder, [r for r in read_results(trained) if r["learning_rate"] == 0.001])
    page = write_report(run_folder, tmp_path / "out", read_report(run_folder))
    assert "Each of 2 shapes of network was tried with one learning rate (0.001)" in Page(page.read_text()).text
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_the_choice_is_the_best_mean_over_the_most_seeds_and_never_sees_the_test(trained) -> None:
    one = read_results(trained)[0]
    results = [changed(one, "a-lr0.1", seed, value, test=0.0) for seed, value in enumerate((70.0, 72.0, 74.0))]
    results += [changed(one, "b-lr0.1", seed, value, test=99.0) for seed, value in enumerate((60.0, 61.0, 80.0))]
    results += [changed(one, "c-lr0.1", 0, 90.0), changed(one, "c-lr0.1", 1, None)]
    store = store_of(results)
    assert [c.label for c in store.configurations] == ["a-lr0.1", "b-lr0.1", "c-lr0.1"]
    assert store.chosen.validation == spread([70.0, 72.0, 74.0])
    assert (store.chosen.validation.mean, store.chosen.validation.deviation) == (72.0, 2.0)
    assert store.passed_over.label == "c-lr0.1"
    assert store_of(results[:6]).passed_over is None


def test_other_settings_of_the_run_are_another_configuration(trained) -> None:
    one = read_results(trained)[0]
    older = {name: value for name, value in one["run"].items() if name != "clip"}  # of a time before that setting
    longer = one["run"] | {"epochs": 30, "clip": 4.0}
    runs = ((0, 50.0, older), (1, 60.0, one["run"]), (2, 90.0, longer))
    store = store_of([changed(one, "a-lr0.1", seed, value, run=run) for seed, value, run in runs])
    assert [(c.label, c.seeds) for c in store.configurations] == [
        ("a-lr0.1 (epochs 2, clip 1.0)", 2),
        ("a-lr0.1 (epochs 30, clip 4.0)", 1),
    ]
    assert len({c.shape for c in store.configurations}) == 2


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9), st.integers(0, 3))
def test_mean_and_sample_deviation(values, missing) -> None:
    found = spread(values + [None, float("nan"), float("inf")][:missing])
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert spread(values[:1]).deviation is None
    assert spread([None]) is None


def test_the_average_needs_one_store_and_a_test_for_every_task(trained) -> None:
    one = read_results(trained)[0] | {"validation": 50.0, "test": 40.0}
    other = one | {"task": "other", "store_digest": "f" * 64, "test": 60.0}
    assert average_test(by_store([one, other])) == 50.0
    assert average_test(by_store([one, other | {"test": None}])) is None
    twice = by_store([one, other | {"task": one["task"]}])
    assert average_test(twice) is None
    assert [store.title for store in twice] == [
        f"words ({one['store']}, {digest[:8]})" for digest in (one["store_digest"], "f" * 64)
    ]


def test_a_cut_last_line_and_stores_in_training_are_told(trained, tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "run"
    (folder / "cola-01234567").mkdir(parents=True)
    (folder / "cola-01234567" / "checkpoint.safetensors").touch()
    code, _, err = run(["report", folder], monkeypatch, capsys)
    assert code == 2
    assert "training has begun on cola-01234567" in err
    (folder / "results.jsonl").write_bytes((trained / "results.jsonl").read_bytes() + b'{"task": "wo')
    code, out, err = run(["report", folder], monkeypatch, capsys)
    assert code == 0
    assert read_report(folder).stores == read_report(trained).stores
    assert "chosen configuration" in out
    assert "cola-01234567 has no results yet" in err
    assert "Begun, but without results yet: cola-01234567." in (folder / "report" / "index.html").read_text()


def test_text_is_escaped_and_file_names_stay_in_the_folder(trained, tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    name = "../<b>$\\frac$ & 語"
    append_results(folder, [result | {"task": name, "store": "<script>"} for result in read_results(trained)])
    page = write_report(folder, tmp_path / "out", read_report(folder))
    text = page.read_text()
    assert name in Page(text).text
    assert "<b>" not in text
    assert "<script>" not in text
    assert {path.parent for path in tmp_path.glob("**/*.png")} == {tmp_path / "out"}


def test_a_run_where_nothing_worked_is_told(trained, tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    sick = next(result for result in read_results(trained) if result["network"] == SICK)
    gone = sick["history"] + [{"train_loss": float("nan"), "validation_loss": float("inf"), "validation": 1.0}]
    append_results(folder, [sick, sick | {"network": "rnn-4-lr0.1-seed0", "learning_rate": 0.1, "history": gone}])
    text = Page(write_report(folder, tmp_path / "out", read_report(folder)).read_text()).text
    assert "none: no network finished an epoch" in text


def test_without_a_test_split_the_test_is_not_measured(trained, tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    append_results(folder, [result | {"test": None, "test_details": {}} for result in read_results(trained)])
    page = Page(write_report(folder, tmp_path / "out", read_report(folder)).read_text()).text
    assert "not measured: the store has no test split" in page


def test_what_was_not_measured_is_said_so(trained) -> None:
    one, *others = read_results(trained)
    rows = dict(measured([one, *others]))
    assert rows["seconds for all networks"] == f"{one['seconds_for_all_networks']:,.1f} s"
    peak = one["meters_for_all_networks"]["host_peak_bytes"]
    assert rows["host memory (meters for all networks)"] == f"{peak / 1e9:,.3f} GB"
    assert measured([{"network": "a", "seed": 1}]) == [(name, "not measured") for name in ("time", "memory", "energy")]
    readings = {"train": {"peak_bytes": 2_500_000_000, "energy_joules": {"not_measured": "no counter"}}}
    energetic = {"train": {"peak_bytes": 1_000_000_000, "energy_joules": 7.2e6}}
    one, other, third = ({"seconds": 3, "meters": r} for r in (readings, energetic, {}))
    assert measured([one, other, third]) == [
        ("seconds", "3.0 s"),
        ("peak bytes (meters, train)", "1.000 GB to 2.500 GB; known of 2 of 3 networks"),
        ("energy joules (meters, train)", "7,200,000 J (2 kWh); known of 1 of 3 networks; not measured: no counter"),
    ]


def test_bad_input_ends_in_one_message(trained, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for words, message in (
        (["nowhere"], "nowhere is no folder: expected one that read-cache train --out wrote"),
        ([tmp_path / "empty"], "holds no results yet"),
        ([trained, "--out", tmp_path / "file"], "cannot be written: File exists"),
    ):
        code, _, err = run(["report", *words], monkeypatch, capsys)
        assert code == 2
        assert message in err
    with pytest.raises(UserError, match="lacks history: delete its line"):
        by_store([{name: value for name, value in read_results(trained)[0].items() if name != "history"}])


def test_many_networks_are_faint_but_for_the_best(trained) -> None:
    one = next(result for result in read_results(trained) if result["network"] != SICK)
    labels = {value: f"a-lr{10.0**-value:g}" for value in range(2, 40)}
    results = [
        changed(one, label, seed, value) for value, label in labels.items() for seed, value in ((0, value), (1, -value))
    ]
    figure = curves_figure(store_of(results))
    assert [len(axes.lines) for axes in figure.axes] == [len(results)] * 3
    named = [line.get_label() for line in figure.axes[2].lines[-NAMED:]]
    assert named == [f"{labels[value]}-seed0" for value in range(39, 39 - NAMED, -1)]
