"""The page: it needs no other file, its numbers are those of the results, and what is missing is said once."""

import base64
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from read_cache.cli.report import report
from read_cache.errors import UserError
from read_cache.report import frames, page
from read_cache.report.costs import total
from read_cache.report.page import Report
from read_cache.store.reader import StoreReader
from read_cache.training.results import Epoch, Result, append_results
from support.boards import FakeBoard, measure
from support.results import TRAINING, result

BASELINES = {"cola0123456789": {"majority class": {"validation": 1.0, "test": 12.34}}}


@pytest.fixture
def results() -> list[Result]:
    """Two shapes, two rates and two seeds, where one network diverged; a probe."""
    configs = [{"cell": cell, "hidden": 4} for cell in ("rnn", "gru")]
    networks = [
        result(config=config, rate=rate, seed=seed, validation=50.0 + place + 100 * rate + 2 * seed)
        for place, config in enumerate(configs)
        for rate in (0.001, 0.01)
        for seed in (0, 1)
    ]
    networks[3] = result(config=configs[0], rate=0.01, seed=1, validation=None)
    return [*networks, result(kind="probe", validation=41.25)]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no pictures, which takes a second a page, in tests of the text."""
    nothing = {"source": "data:,", "width": 1, "height": 1}
    monkeypatch.setattr(page, "images", lambda draw: {"wide": nothing, "narrow": nothing})


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
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if {"style", "script"} & set(self.open) else data

    def pictures(self) -> list[bytes]:
        sources = [value for name, value in self.attributes if name in ("src", "srcset")]
        return [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]


def run_folder(folder: Path, results: list[Result]) -> Path:
    """Write a run's results."""
    folder.mkdir(exist_ok=True)
    append_results(folder, results)
    return folder


def test_the_page_needs_no_other_file(results: list[Result], tmp_path: Path) -> None:
    path = Report(results, BASELINES).write(tmp_path / "page", "run")
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    text = path.read_text()
    page = Page(text)
    assert len(page.pictures()) == 4, "curves and what was tried, for wide and narrow screens"
    assert all(picture.startswith(b"\x89PNG") for picture in page.pictures())
    anchors = {value for name, value in page.attributes if name == "id"}
    links = [value for name, value in page.attributes if name == "href"]
    assert links
    assert all(value[1:] in anchors and value[0] == "#" for value in links)
    assert not any(word in text for word in ("http:", "https:", "url(", "@import", "<link", 'src="/'))
    assert "default-src 'none'" in text, "a browser fetches nothing, whatever the page holds"


def test_the_same_run_gives_the_same_bytes_whatever_the_users_style(results: list[Result], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", results)
    here = Report(frames.read_runs([run])).write(tmp_path / "here", "run").read_bytes()
    style = tmp_path / "matplotlibrc"
    style.write_text("lines.linewidth: 9\nsavefig.dpi: 30\nfont.size: 30\nsavefig.bbox: tight\n")
    program = (
        "import sys; from pathlib import Path; from read_cache.report import frames, page\n"
        "page.Report(frames.read_runs([Path(sys.argv[1])])).write(Path(sys.argv[2]), 'run')"
    )
    environment = {**os.environ, "MATPLOTLIBRC": str(style), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program, run, tmp_path / "there"], check=True, env=environment)
    assert (tmp_path / "there" / "index.html").read_bytes() == here


@pytest.mark.usefixtures("undrawn")
def test_numbers_are_those_of_the_results(results: list[Result]) -> None:
    tables = Report(results, BASELINES)
    chosen = tables.chosen.set_index("kind").T
    tests = [r.test for r in results if r.config.get("cell") == "gru" and r.learning_rate == 0.01]
    assert chosen["read"]["label"] == "read-gru-4-lr0.01"
    assert chosen["read"]["test"] == pytest.approx(np.mean(tests), rel=1e-14)
    assert chosen["read"]["test_deviation"] == pytest.approx(np.std(tests, ddof=1), rel=1e-14)
    page = Page(tables.html("run")).text
    assert f"{np.mean(tests):.2f} ± {np.std(tests, ddof=1):.2f}" in page
    assert "41.25" in page
    assert "baseline: majority class" in page
    assert "12.34" in page
    assert "1,000" in page


@pytest.mark.usefixtures("undrawn")
def test_every_table_names_the_kind(results: list[Result]) -> None:
    text = Report(results, BASELINES).html("run")
    heads = [head.partition("</thead>")[0] for head in text.split("<thead>")[1:]]
    assert len(heads) == 6
    assert all(">kind</th>" in head for head in heads)


@pytest.mark.usefixtures("undrawn")
def test_a_network_that_failed_is_named_with_the_reason(results: list[Result]) -> None:
    tables = Report(results)
    assert tables.failures.to_dict("records") == [
        {
            "task": "cola", "kind": "read", "network": "read-rnn-4-lr0.01-seed1", "epochs": 0,
            "reason": "its loss became nan at step 0", "stop": "diverged",
        }
    ]  # fmt: skip
    page = Page(tables.html("run")).text
    assert "read-rnn-4-lr0.01-seed1" in page.partition("Failures")[2]
    assert "No network failed" in Page(Report(results[:2]).html("run")).text


@pytest.mark.usefixtures("undrawn")
def test_text_is_escaped(results: list[Result]) -> None:
    name = "../<b>$\\frac$ & 語 {{ 7*7 }}"
    spoiled = [one.replaced(task=name, store="<script>", network=f"<i>{one.network}", kind="<u>") for one in results]
    text = Report(spoiled, {spoiled[0].identity: {"<s>": {"test": 1.0}}}, ["<em>"]).html("<title>")
    assert name in Page(text).text
    assert not any(tag in text for tag in ("<b>", "<script>", "<i>", "<u>", "<s>", "<em>", "<h1><title>"))


@pytest.mark.usefixtures("undrawn")
def test_a_run_where_nothing_worked_is_told() -> None:
    lost = Epoch(train_loss=float("nan"), validation_loss=float("inf"), validation=1.0)
    results = [result(validation=None), result(validation=None, rate=0.1, history=[lost])]
    page = Page(Report(results).html("run")).text
    assert "cola, t5-base, read: no network finished an epoch." in page


@pytest.mark.usefixtures("undrawn")
def test_what_is_missing_is_said_once(results: list[Result]) -> None:
    readings = measure(None, [10.0])
    on_cpu = [one.replaced(test=None, readings=readings.values(), extraction=None) for one in results]
    on_cpu += [one.replaced(task="mrpc", identity="mrpc") for one in on_cpu]
    tables = Report(on_cpu)
    page = Page(tables.html("run")).text
    assert page.count("No test metric: cola, mrpc.") == 1
    assert page.count("(no meter)") == 1
    assert page.count("device energy by Eq. 4, CPU energy, DRAM energy (no meter)") == 1
    assert page.count("extraction (no readings)") == 1
    assert "energy, kWh" not in page, "a column that holds nothing is left out"


@pytest.mark.usefixtures("undrawn")
def test_networks_that_trained_together_cost_once() -> None:
    later = measure(FakeBoard(100, joules=[0.0, 3.6e6], limit=200.0), [1800.0])
    results = [result(seed=seed) for seed in range(3)] + [
        result(seed=3, readings=later),
        result(seed=4, readings=later),
    ]
    sessions = Report(results).sessions
    assert list(sessions["stage"]) == ["extraction", "training", "training"]
    assert list(sessions["networks"]) == [5, 3, 2]
    assert list(sessions["device energy by Eq. 4, kWh"]) == pytest.approx([0.1, 0.4, 0.1])
    assert total(sessions)["time, s"] == 3600 + 7200 + 1800
    assert total(sessions)["host memory, GB"] == sessions["host memory, GB"].max(), "a peak"
    page = Page(Report(results).html("run")).text
    assert "12,600" in page
    assert f"{TRAINING.wall_seconds + later.wall_seconds:,.0f}" in page


@pytest.mark.usefixtures("undrawn")
def test_results_without_any_readings_have_a_page() -> None:
    page = Page(Report([result(extraction=None).replaced(readings={})]).html("run")).text
    assert page.count("Not measured: extraction, training (no readings).") == 1


def test_losses_of_other_units_have_other_pictures() -> None:
    page = Page(Report([result(), result(kind="lora", loss_unit="squared error")]).html("run"))
    assert len(page.pictures()) == 6


@pytest.mark.usefixtures("undrawn")
def test_several_runs_make_one_page(
    results: list[Result], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run_folder(tmp_path / "a", results[:-1]), run_folder(tmp_path / "b", results[-1:])]
    report(runs)
    out, err = capsys.readouterr()
    assert str(tmp_path / "a" / "report" / "index.html") in err
    assert "probe" in out
    assert "read" in out
    assert sum("stores/cola" in line for line in err.splitlines()) == 1, "no baselines: the store is gone"
    report(runs, out=tmp_path / "out")
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.usefixtures("undrawn")
def test_a_cut_last_line_and_stores_in_training_are_told(
    results: list[Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "cola-01234567").mkdir(parents=True)
    (run / "cola-01234567" / "checkpoint.safetensors").touch()
    with pytest.raises(UserError, match="cola-01234567"):
        report([run])
    run_folder(run, results)
    with (run / "results.jsonl").open("ab") as file:
        file.write(b'{"task": "co')
    report([run])
    assert "cola-01234567" in capsys.readouterr().err
    assert "cola-01234567" in (run / "report" / "index.html").read_text()
    assert len(frames.read_runs([run])) == len(results)


@pytest.mark.usefixtures("undrawn")
def test_bad_input_ends_in_one_message(results: list[Result], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", results)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for runs, out, name in (
        ([tmp_path / "nowhere"], None, "nowhere"),
        ([run, tmp_path / "empty"], None, "empty"),
        ([tmp_path / "file"], None, "file"),
        ([run], tmp_path / "file", "file"),
    ):
        with pytest.raises(UserError, match=name):
            report(runs, out=out)
    with pytest.raises(UserError):
        frames.read_runs([])
    (run / "results.jsonl").write_text('{"task": "cola"}\n')
    with pytest.raises(UserError, match=r"results\.jsonl, line 1"):
        report([run])


@pytest.mark.usefixtures("undrawn")
def test_baselines_come_from_stores_that_are_still_there(
    words_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = StoreReader(words_store).manifest.identity
    monkeypatch.setattr(page, "compute_baselines", lambda store: {store.manifest.task.name: {"test": 3.0}})
    here = result("words", store=str(words_store), identity=identity)
    changed = result("other", store=str(words_store), identity="another")
    gone = result("cola", store=str(tmp_path / "gone"))
    stores, baselines, missing = page.open_stores([here, here.replaced(seed=1), changed, gone])
    assert list(stores) == list(baselines) == [identity]
    assert missing == [str(words_store), str(tmp_path / "gone")]
    run = run_folder(tmp_path / "run", [here, changed, gone])
    assert "baseline: words" in Page(Report.of_runs([run]).html("run")).text


@pytest.mark.usefixtures("undrawn")
def test_stores_of_one_task_have_their_own_baselines() -> None:
    results = [result(), result(backbone="bert", identity="other", store="stores/bert/cola")]
    report = Report(results, {**BASELINES, "other": {"majority class": {"test": 23.45}}})
    rows = report.scores[report.scores["kind"].str.startswith("baseline")]
    assert list(zip(rows["backbone"], rows["mean"], strict=True)) == [("t5-base", 12.34), ("bert", 23.45)]
    choices = [report._section(rows)["choice"]["scores"] for _, rows in report.networks.groupby("identity", sort=False)]
    assert [text for scores in choices for kind, text, _ in scores if "baseline" in kind] == ["12.34", "23.45"]


@pytest.mark.usefixtures("undrawn")
def test_tables_have_captions_and_headers_and_pictures_have_numbers(results: list[Result]) -> None:
    text = Report(results, BASELINES).html("run")
    assert text.count("<caption>") == text.count("<table>") == text.count('<th scope="col">kind</th>')
    alternatives = [value for name, value in Page(text).attributes if name == "alt"]
    assert len(alternatives) == 2
    assert "read-gru-4-lr0.01-seed1 54.00 in epoch 3 of 3" in alternatives[0]
    assert "read, 2 learning rates, 4.0 kB and more: best mean 53.00 at 0.01" in alternatives[1]
