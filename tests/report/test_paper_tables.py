"""`read-cache tables`: figures worked out by hand, the paper's own against its text, and what is missing."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from read_cache.cli.report import tables
from read_cache.errors import UserError
from read_cache.extraction.rows import load_folder, protocol_splits
from read_cache.report.tables import TASKS, paper, paper_table
from read_cache.tasks import find_task
from read_cache.training.results import Result, append_results
from support.boards import FakeBoard, measure
from support.results import result
from support.shared import SHARED

READ = {"recurrent": True}


def seven(**others: Any) -> list[Result]:
    """Three seeds of the paper's seven tasks, whose tests are 50, 51, 53 on the first task and 1 more on each next."""
    return [
        result(task, seed=seed, validation=place + test, **{"config": READ} | others)
        for place, task in enumerate(TASKS)
        for seed, test in enumerate((50.0, 51.0, 53.0))
    ]


def cells(text: str) -> dict[str, list[str]]:
    """Return the cells of the first Markdown table by row."""
    table = text.partition("\n\n")[2].partition("\n\n")[0]
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if "---" not in line
    ]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def paper_text() -> str:
    """The paper's text."""
    path = SHARED / "papers" / "read.md"
    if not path.is_file():
        pytest.skip("the paper is not at hand")
    return path.read_text(encoding="utf-8")


def test_the_papers_figures_are_those_of_its_text(paper_text: str) -> None:
    lines = {line.split("\t")[0].replace("w/o R", "w/o. R"): line.split("\t")[1:] for line in paper_text.splitlines()}
    for row in paper()["table1"]:
        printed = [
            row["parameters_percent"],
            row["power_kw"],
            row["energy_kwh"],
            *row["scores"].values(),
            row["average"],
        ]
        assert list(map(float, lines[row["method"]])) == printed
    for row in paper()["table2"]:
        printed = [*row["scores"].values(), row["average"], row["parameters_percent"]]
        assert list(map(float, lines[row["method"].replace("w/o R", "w/o. R")])) == printed
    header = next(line for line in paper_text.splitlines() if line.startswith("Method\tTrainable"))
    assert header.split("\t")[4:-1] == list(TASKS.values())


def test_the_papers_averages_are_no_means() -> None:
    for row in paper()["table1"] + paper()["table2"]:
        assert list(row["scores"]) == list(TASKS)
        assert row["average"] > fmean(row["scores"].values()) + 0.3, "as the notes say"


@pytest.mark.parametrize("task", ["cola", "mrpc", "sst2", "stsb"])
def test_official_rows_are_those_of_the_protocol(task: str, shared_glue: Path) -> None:
    splits = protocol_splits(load_folder(shared_glue / task), find_task(task).protocol)
    assert {name: len(rows) for name, rows in splits.items()} == paper()["rows"][task]


def test_table_1_adds_up() -> None:
    text = paper_table("table1", seven())
    ours = cells(text)["read, here"]
    assert ours[:4] == ["t5-base", "0.8", f"{7 * 0.5 / (7 * 3):.4g}", "3.5"]
    assert ours[4] == f"{fmean((50, 51, 53)):.2f} ± {stdev((50, 51, 53)):.2f}"
    assert ours[-1] == f"{fmean((50, 51, 53)) + 3:.2f}"
    assert cells(text)["method"][4:-1] == list(TASKS.values())
    theirs = cells(text)["READ, paper"]
    assert theirs[:4] == ["t5-base", "0.8", "0.43", "2.06"]
    assert theirs[-1] == "84.08"
    assert len(cells(text)) == 2 + len(paper()["table1"])
    assert "p0 = 200 W" in text
    assert "not the means" in text


def test_methods_stand_beside_each_other_and_pay_for_what_they_used() -> None:
    own = measure(FakeBoard(100, joules=[0.0, 3.6e6], limit=200.0), [1800.0])
    lora = [result(task, kind="lora", validation=60.0, readings=own, extraction=None) for task in TASKS]
    text = paper_table("table1", [*seven(), *lora])
    assert cells(text)["lora, here"][3] == f"{7 * 0.1:.4g}"
    assert cells(text)["read, here"][3] == f"{7 * 0.5:.4g}"
    assert cells(text)["lora, here"][-1] == "60.00"
    assert "energy is that of training: lora." in text


def test_networks_that_trained_together_cost_once_and_another_session_is_added() -> None:
    later = measure(FakeBoard(100, joules=[0.0, 3.6e6], limit=200.0), [1800.0])
    results = [result(seed=0), result(seed=1), result(seed=2, readings=later), result(seed=3, rate=0.1, readings=later)]
    power, energy = cells(paper_table("table1", results))["read, here"][2:4]
    assert float(energy) == pytest.approx(0.1 + 0.4 + 0.1)
    assert float(power) == pytest.approx(0.6 / 3.5, rel=1e-3)


def test_a_cost_that_was_not_measured_is_a_dash_and_a_sentence() -> None:
    on_cpu = measure(FakeBoard(RuntimeError("no board"), joules=RuntimeError("no board")), [10.0])
    text = paper_table("table1", [result(extraction=on_cpu)])
    assert cells(text)["read, here"][2:4] == ["–", "–"]
    assert text.count("Not measured:") == 1
    assert "device energy, device energy by Eq. 4 (RuntimeError: no board)" in text
    unkept = paper_table("table1", [result(readings=on_cpu).replaced(readings={})])
    assert cells(unkept)["read, here"][3] == "–"
    assert "training (no readings)" in unkept


def test_partial_sets_are_named_and_the_average_is_that_of_the_columns() -> None:
    short = {"train": 1000, "validation": 1000, "test": 5463}
    results = [result("qnli", validation=60.0, examples=short), result("cola", validation=40.0)]
    text = paper_table("table1", results)
    assert "| CoLA | QNLI | average |" in text
    assert "Fewer examples than under the paper's protocol: qnli." in text
    assert cells(text)["READ, paper"][-1] == f"{fmean((52.59, 92.93)):.2f}"


def test_other_backbones_and_tasks_are_not_taken_for_the_papers() -> None:
    assert "t5-tiny-wiki is not a backbone of the paper" in paper_table("table1", seven(backbone="t5-tiny-wiki"))
    assert "not a backbone" not in paper_table("table1", seven(backbone="google-t5/t5-base"))
    tiny = [one.replaced(backbone="t5-tiny-wiki", identity=f"tiny-{one.task}") for one in seven()]
    both = [line for line in paper_table("table1", [*seven(), *tiny]).splitlines() if line.startswith("| read, here |")]
    assert [line.split(" | ")[1] for line in both] == ["t5-base", "t5-tiny-wiki"]
    assert [line.strip("| ").split(" | ")[-1] for line in both] == [f"{fmean((50, 51, 53)) + 3:.2f}"] * 2
    text = paper_table("table1", [result("sample-sentiment")])
    assert "The paper has no figures of these tasks." in text
    assert ", paper" not in text
    assert "average |" not in text


def test_a_method_without_a_test_score_has_no_average() -> None:
    results = [result("cola"), result("qnli", test=None)]
    text = paper_table("table1", results)
    assert cells(text)["read, here"][-2:] == ["–", "–"]
    assert "No test metric: qnli." in text
    missing = cells(paper_table("table1", [*seven(), result("cola", kind="probe")]))
    assert missing["probe, here"][-1] == "–"
    assert float(missing["read, here"][-1]) > 0


def test_table_2_sets_recurrent_against_untied() -> None:
    untied = [result(task, validation=60.0, config={"recurrent": False}, parameters_percent=9.6) for task in TASKS]
    text = paper_table("table2", [*seven(), *untied, result(kind="probe")])
    rows = cells(text)
    assert list(rows)[1:3] == ["read, here", "read (untied), here"]
    assert rows["read (untied), here"][1:3] == ["9.6", "60.00"]
    theirs = next(row for row in paper()["table2"] if row["method"] == "READ (w/o. Recurrency)")
    assert rows["READ (w/o. Recurrency), paper"][-1] == f"{fmean(theirs['scores'].values()):.2f}"
    assert "probe" not in text
    assert "kWh" not in text
    with pytest.raises(UserError, match="recurrence"):
        paper_table("table2", [result(kind="probe")])


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    text = paper_table("table1", [result("a|b", kind="x|y")])
    assert "| x\\|y, here |" in text


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    append_results(run, seven())
    written = []
    for out in (tmp_path / "once", tmp_path / "twice"):
        tables("table1", [run], out)
        assert capsys.readouterr().out == (out / "table1.md").read_text()
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"table1.md"}


def test_of_several_stores_of_a_task_the_last_counts() -> None:
    twice = [result("cola", validation=20.0), result("cola", validation=70.0, store="stores/other", identity="other")]
    assert cells(paper_table("table1", twice))["read, here"][-1] == "70.00"


def test_results_that_make_no_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("[]")
    for runs in ([], [tmp_path], [tmp_path / "absent"], [tmp_path / "file"]):
        with pytest.raises(UserError):
            tables("table1", runs, tmp_path)
    assert not list(tmp_path.glob("table1*"))
