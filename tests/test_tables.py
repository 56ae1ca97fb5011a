"""`read-cache tables`: figures worked out by hand, the paper's own against its text, and what is not there."""

import json
import re
from pathlib import Path
from statistics import fmean, stdev

import pytest

from boards import Board, measure
from conftest import SHARED
from processes import run
from read_cache.errors import UserError
from read_cache.extract.rows import load_folder
from read_cache.extract.splits import protocol_splits
from read_cache.meters.readings import Missing
from read_cache.report.glue import ReadRow, read_found, read_rows
from read_cache.report.glue_figure import glue_figure
from read_cache.report.glue_tables import glue_markdown, scores_table
from read_cache.report.paper import TASKS, official_rows, paper_rows
from read_cache.tasks import find_task
from read_cache.train.results import Result

READINGS = {
    "extraction": measure(Board(50, joules=[0.0, 3.6e6], limit=200.0), [3600.0]).to_json(),
    "training": measure(Board(100, joules=[0.0, 7.2e6], limit=200.0), [7200.0]).to_json(),
}
"""0.1 kWh by Eq. 4 in an hour, and 0.4 kWh in two; by the counter 1 and 2 kWh."""


def result(task: str, seed: int, test: float | None, recurrent: bool = True, **others: object) -> Result:
    """A network's result, as train writes it."""
    return {
        "task": task, "backbone": "t5-base", "network": f"gru-256{'' if recurrent else '-untied'}-lr0.001-seed{seed}",
        "validation": test, "test": test, "test_details": {}, "best_epoch": 1, "stopped": "all epochs done",
        "parameters": 10, "parameters_percent": 0.8, "learning_rate": 0.001, "seed": seed, "history": [], "run": {},
        "read": {"recurrent": recurrent}, "folder": "", "store": f"stores/{task}", "store_digest": task,
        "examples": official_rows(task), "meters_of_extraction": READINGS["extraction"],
        "meters_for_all_networks": READINGS["training"], **others,
    }  # fmt: skip


def seven(**others: object) -> list[Result]:
    """Three seeds of the paper's seven tasks, whose tests are 50, 51, 53 on the first task and 1 more on each next."""
    return [
        result(task, seed, place + test, **others)
        for place, task in enumerate(TASKS)
        for seed, test in enumerate((50.0, 51.0, 53.0))
    ]


def only_row(results: list[Result]) -> ReadRow:
    (row,) = read_rows(results)
    return row


def table_cells(text: str) -> dict[str, list[str]]:
    """Cells of a Markdown table by row."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if "---" not in line]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def paper() -> str:
    """The paper's text."""
    path = SHARED / "papers" / "read.md"
    if not path.is_file():
        pytest.skip(f"the paper is not at {path}")
    return path.read_text(encoding="utf-8")


def test_the_papers_figures_are_those_of_its_text(paper) -> None:
    lines = {line.split("\t")[0].replace("w/o R", "w/o. R"): line.split("\t")[1:] for line in paper.splitlines()}
    for row in paper_rows("table1"):
        printed = [row.parameters_percent, row.power_kw, row.energy_kwh, *row.scores.values(), row.average]
        assert list(map(float, lines[row.method])) == printed
    for row in paper_rows("table2"):
        printed = [*row.scores.values(), row.average, row.parameters_percent]
        assert list(map(float, lines[row.method.replace("w/o R", "w/o. R")])) == printed
    header = next(line for line in paper.splitlines() if line.startswith("Method\tTrainable"))
    assert header.split("\t")[4:-1] == list(TASKS.values())
    for row in paper_rows("table1") + paper_rows("table2"):
        assert list(row.scores) == list(TASKS)
        assert row.average > fmean(row.scores.values()) + 0.3, "as the file and the notes say: no mean"


@pytest.mark.parametrize("task", ["cola", "mrpc", "sst2", "stsb"])
def test_official_rows_are_those_of_the_protocol(task, shared_glue) -> None:
    splits = protocol_splits(load_folder(shared_glue / task), find_task(task).protocol)
    assert {name: len(rows) for name, rows in splits.items()} == official_rows(task)


def test_table_1_adds_up() -> None:
    row = only_row(seven())
    cells = table_cells(scores_table("table1", [row]))
    ours = cells["READ, here"]
    assert ours[:2] == ["t5-base", "0.80"]
    assert ours[2:4] == [f"{7 * 0.5 / (7 * 3):.3g}", "3.5"]
    assert ours[4] == f"{fmean((50, 51, 53)):.2f} ± {stdev((50, 51, 53)):.2f}"
    assert ours[-2] == f"{fmean((50, 51, 53)) + 3:.2f} ± {stdev((50, 51, 53)):.2f}"
    assert cells["method"][4:-2] == list(TASKS.values())
    assert "READ, here: p0 = 200 W (the board's power limit)." in glue_markdown("table1", [row])
    theirs = cells["READ, paper"]
    assert theirs[:4] == ["t5-base", "0.8", "0.43", "2.06"]
    assert theirs[-2:] == ["84.08", "84.97"]
    assert len(cells) == 2 + len(paper_rows("table1"))


def test_networks_that_trained_together_cost_once_and_another_session_is_added() -> None:
    later = measure(Board(100, joules=[0.0, 3.6e6], limit=200.0), [1800.0]).to_json()
    results = [result("cola", 0, 50.0), result("cola", 1, 51.0), result("cola", 2, 52.0, meters_for_all_networks=later)]
    cost = only_row(results).cost
    assert cost.energy_kwh == pytest.approx(0.1 + 0.4 + 0.1)
    assert cost.power_kw == pytest.approx(0.6 / 3.5)


def test_what_was_not_measured_is_a_dash_and_a_sentence(tmp_path) -> None:
    on_cpu = measure(Board(RuntimeError("no board"), joules=RuntimeError("no board")), [10.0]).to_json()
    row = only_row([result("cola", 0, 50.0, meters_of_extraction=on_cpu)])
    assert isinstance(row.cost.energy_kwh, Missing)
    assert table_cells(scores_table("table1", [row]))["READ, here"][2:4] == ["–", "–"]
    text = glue_markdown("table1", [row])
    assert "Not measured: device energy, device energy by Eq. 4 (RuntimeError: no board)" in text
    older = result("cola", 0, 50.0, examples={})
    del older["meters_for_all_networks"]
    text = glue_markdown("table1", [only_row([older])])
    assert "gru-256-lr0.001-seed0 was trained by a version that did not keep it" in text
    assert "† Partial sets, in rows: CoLA of unknown size." in text
    unkept = result("cola", 0, 50.0, meters_of_extraction={"not_measured": "no session kept them"})
    assert "energy by Eq. 4, CPU energy, DRAM energy (no session kept them)" in glue_markdown(
        "table1", [only_row([unkept])]
    )


def test_partial_sets_and_absent_tasks_are_named() -> None:
    short = {"train": 1000, "validation": 1000, "test": 5463}
    rows = read_rows([result("qnli", 0, 60.0, examples=short), result("cola", 0, 40.0)])
    text = glue_markdown("table1", rows)
    assert "| CoLA | QNLI † | average |" in text
    assert "† Partial sets, in rows: QNLI train 1,000 of 103,743." in text
    assert "left out of the averages: MNLI, MRPC, QQP, SST-2, STS-B." in text
    assert table_cells(scores_table("table1", rows))["READ, paper"][-2] == f"{fmean((52.59, 92.93)):.2f}"


def test_other_backbones_and_tasks_are_not_taken_for_the_papers() -> None:
    text = glue_markdown("table1", read_rows(seven(backbone="t5-tiny-wiki")))
    assert "t5-tiny-wiki is none of the paper's backbones" in text
    assert "none of" not in glue_markdown("table1", read_rows(seven(backbone="google-t5/t5-base")))
    assert "| READ-large, here | t5-large |" in glue_markdown("table1", read_rows(seven(backbone="t5-large")))
    both = read_rows([*seven(), *seven(backbone="t5-tiny-wiki")])
    assert [row.name for row in both] == ["READ on t5-base, here", "READ on t5-tiny-wiki, here"]
    text = glue_markdown("table1", read_rows([result("sample-sentiment", 0, 60.0)]))
    assert "The paper has no figures of these tasks." in text
    assert ", paper" not in text


def test_a_task_without_a_test_score_has_no_average() -> None:
    row = only_row([result("cola", 0, 50.0), result("qnli", 0, None, validation=3.0)])
    assert table_cells(scores_table("table1", [row]))["READ, here"][-2] == "–"
    assert "READ, here has no test score of QNLI, and so no average." in glue_markdown("table1", [row])


def test_other_seeds_on_another_task_leave_the_average_without_a_deviation() -> None:
    average = only_row([result("cola", 0, 50.0), result("cola", 1, 52.0), result("qnli", 5, 60.0)]).average
    assert average is not None
    assert (average.mean, average.deviation) == (55.5, None)
    lost = only_row([result("cola", 0, 50.0), result("qnli", 0, 60.0), result("qnli", 1, None)]).average
    assert lost is not None
    assert lost.mean == 55.0


def test_table_2_sets_recurrent_against_untied() -> None:
    untied = [result(task, 0, 60.0, recurrent=False, parameters_percent=9.6) for task in TASKS]
    rows = read_rows([*untied, *seven()])
    text = scores_table("table2", rows)
    cells = table_cells(text)
    assert list(cells)[1:3] == ["READ, here", "READ without recurrency, here"]
    assert cells["READ without recurrency, here"][1:3] == ["9.60", "60.00"]
    assert cells["READ (w/o. Recurrency), paper"][-1] == "85.15"
    assert "READ without recurrency, here: configurations tried on each task: 1." in glue_markdown("table2", rows)


def test_the_picture_shows_what_is_known_and_no_panel_of_one_point() -> None:
    tasks, parameters, energy = glue_figure("table1", read_rows(seven())).axes
    names = {f"{row.method}, paper" for row in paper_rows("table1")} | {"READ, here"}
    for axes in (parameters, energy):
        assert set(axes.get_legend_handles_labels()[1]) == names
    assert tasks.get_legend_handles_labels()[1] == ["READ, paper", "READ-large, paper", "READ, here"]
    unmeasured = seven(meters_of_extraction={"not_measured": "no board"})
    energy = glue_figure("table1", read_rows(unmeasured)).axes[2]
    assert set(energy.get_legend_handles_labels()[1]) == names - {"READ, here"}
    assert len(glue_figure("table1", read_rows([result("sample-sentiment", 0, 60.0)])).axes) == 1


def test_the_command_writes_a_table_and_its_picture(tmp_path, monkeypatch, capsys) -> None:
    found = tmp_path / "results.json"
    found.write_text(json.dumps(seven()))
    written = []
    for out in (tmp_path / "once", tmp_path / "twice"):
        code, text, _ = run(["tables", "table1", found, "--out", out], monkeypatch, capsys)
        assert code == 0
        assert text == (out / "table1.md").read_text()
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"table1.md", "table1.png"}


def test_results_that_make_no_table_are_refused(tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(UserError, match="cola was trained on two stores, a"):
        read_rows([result("cola", 0, 50.0, store="a"), result("cola", 1, 50.0, store="b", store_digest="b")])
    with pytest.raises(UserError, match="lacks 'backbone'"):
        read_rows([{key: value for key, value in result("cola", 0, 50.0).items() if key != "backbone"}])
    for text in ("{", '["a"]', "7"):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(UserError, match=r"broken.json holds no results"):
            read_found([tmp_path / "broken.json"])
    for words in ([], [tmp_path], [tmp_path / "absent"]):
        code, out, err = run(["tables", "table1", *words], monkeypatch, capsys)
        assert (code, out) == (2, "")
        assert re.search("(?m)^error: .*results", err)


def test_a_run_folder_is_read_too(tmp_path) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps(result("cola", 0, 50.0)) + "\n")
    assert [found["task"] for found in read_found([Path(tmp_path)])] == ["cola"]
