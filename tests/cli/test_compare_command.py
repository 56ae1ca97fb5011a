"""`read-cache compare`: what it prints, and several tasks in one table."""

import json
import shutil
from pathlib import Path

from support.processes import run


def test_compare_needs_something_to_compare_on(words_store, tmp_path, monkeypatch, capsys) -> None:
    store = ("--store", words_store)
    also = (("--set", "extract.dtype=int8"), ("--model", "m"), ("--task", "t", "--task", "u"), ("--dataset", "d"))
    for words in ((), ("--model", "m"), *((*store, *more) for more in also)):
        code, _, err = run(["compare", "--method", "read", *words], monkeypatch, capsys)
        assert (code, "--store" in err, "--task" in err) == (2, True, True)


def test_settings_are_checked_before_the_extraction(models, rows_folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    task = shutil.copy(rows_folder / "words.toml", "words.toml")
    words = ["compare", "--model", models["tied"], "--task", task, "--dataset", rows_folder, "--method", "lora"]
    for wrong in ("lora.seed=0,1", "lora.rank=0", "read.hidden=4", "colour=red"):
        code, _, err = run([*words, "--set", wrong], monkeypatch, capsys)
        assert (code, wrong.partition("=")[0].rpartition(".")[2] in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["words.toml"]


def test_compare_prints_the_columns_that_fit_a_terminal_or_all_as_json(words_store, tmp_path, command) -> None:
    words = ("compare", "--store", words_store, "--out", tmp_path, "--method", "probe", "--epochs", 1)
    out, err = command(*words)
    assert max(map(len, out.splitlines())) <= 120
    assert all(name in out for name in ("majority class", "untrained backbone", "probe"))
    assert str(tmp_path) in err
    found = json.loads(command(*words, "--json")[0])
    assert found == json.loads((tmp_path / "compare.json").read_text())
    assert f"{found['methods'][-1]['num_trainable_params']:,}" in out


def test_compare_on_several_tasks_ends_in_one_table(models, rows_folder, tmp_path, command, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [
        shutil.copy(rows_folder / own, f"{task}.toml")
        for own, task in (("words.toml", "words"), ("pairs.toml", "scores"))
    ]
    words = ["compare", "--model", models["tied"], "--dataset", rows_folder, "--method", "layer_probe"]
    words += ["--method", "probe", "--epochs", 2, "--set", "probe.epochs=1", "--out", "here"]
    out, err = command(*words, *(word for file in files for word in ("--task", file)))
    tables = {
        task: json.loads(Path("here", task, "compare.json").read_text())["methods"] for task in ("words", "scores")
    }
    lines = Path("here", "overview.md").read_text().splitlines()
    assert "| method | words | scores | mean | trainable % | search s |" in lines
    for number, method in enumerate(("layer_probe", "probe"), start=2):
        rows = [rows[number] for rows in tables.values()]
        assert [row["method"] for row in rows] == [method] * 2
        (line,) = [line for line in lines if line.startswith(f"| {method} |")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:4] == [
            f"{value:.2f}" for value in (rows[0]["test"], rows[1]["test"], (rows[0]["test"] + rows[1]["test"]) / 2)
        ]
        assert cells[1] in out
    assert "overview.md" in err
    epochs = [json.loads(line)["epochs"] for line in Path("here", "words", "results.jsonl").read_text().splitlines()]
    assert epochs == [2, 1]  # of each method its own
