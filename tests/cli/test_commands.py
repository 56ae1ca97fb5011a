"""Whole commands, as a user types them, on tiny backbones and small rows."""

import functools
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import read_cache
from read_cache.api.training import Results
from read_cache.cli import output
from read_cache.cli.app import COMMANDS
from read_cache.cli.train import show
from support.processes import ENVIRONMENT, PROGRAM, run, run_cli
from support.results import result
from support.spoil import call, options_of

GRID = {f"read-{cell}-8-lr0.0005-seed{seed}" for cell in ("rnn", "gru") for seed in (0, 1)}
SHOWN = ("--set", "--json", "--help")
"""Options that are no settings."""


def extraction(model: Path, rows_folder: Path, store: Path, **settings: object) -> list[object]:
    task, rows = rows_folder / "words.toml", rows_folder / "words"
    return call("extract", model=model, task=task, dataset=rows, store=store, part_tokens=200, **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path], rows_folder: Path) -> dict[str, Path]:
    """A store and a run folder that the commands made, in processes of their own."""
    root = tmp_path_factory.mktemp("commands")
    store = root / "stores" / "words"
    done = run_cli(*extraction(models["untied"], rows_folder, store))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"sealed {store}" in done.stderr
    assert "ETA" in done.stderr
    grid = ("--cell", "rnn", "--cell", "gru", "--hidden", 8, "--seed", 0, "--seed", 1, "--epochs", 2)
    done = run_cli("train", "--store", root / "stores", "--out", root / "run", *grid)
    assert done.returncode == 0, done.stderr
    (root / "printed").write_text(done.stdout)
    (root / "shown").write_text(done.stderr)
    return {"store": store, "run": root / "run", "model": models["untied"], "root": root}


def results(run_folder: Path) -> list[dict]:
    return [json.loads(line) for line in (run_folder / "results.jsonl").read_text().splitlines()]


def test_train_prints_a_row_and_writes_a_line_and_a_folder_for_each_network(trained) -> None:
    table = (trained["root"] / "printed").read_text()
    assert {found["network"] for found in results(trained["run"])} == GRID
    for found in results(trained["run"]):
        [row] = [line for line in table.splitlines() if found["network"] in line]
        assert f"{found['validation']:.2f}" in row
        assert f"{found['parameters']:,}" in row
        assert 0 < found["parameters_percent"] < 100
        files = {path.name for path in Path(found["folder"]).iterdir()}
        assert files == {"config.json", "model.safetensors"}


def test_a_log_of_training_has_a_line_an_epoch_with_the_time_left(trained) -> None:
    lines = (trained["root"] / "shown").read_text().splitlines()
    assert "words: 4 networks" in lines[0]
    first, last = (next(line for line in lines if f"epoch {epoch} of 2" in line) for epoch in (1, 2))
    assert re.search(r"best \d+\.\d\d, still training: 4, at most \d+ s left$", first)
    assert "left" not in last
    assert lines[-1] == f"networks and results.jsonl are in {trained['run']}"
    assert not [line for line in lines if len(line) > 160]


def test_a_terminal_shows_a_bar(trained, tmp_path, command, monkeypatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, soft_wrap=True, highlight=False)
    monkeypatch.setattr(output, "stderr", screen)
    command("train", "--store", trained["store"], "--out", tmp_path, "--network", "probe", "--epochs", 2)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "100%" in shown
    assert "epoch 2 of 2" in shown


def test_training_again_trains_nothing_and_prints_the_same_json(trained, command) -> None:
    before = (trained["run"] / "results.jsonl").read_bytes()
    grid = ("--cell", "rnn", "--cell", "gru", "--hidden", 8, "--set", "seed=0,1", "--epochs", 2, "--json")
    out, err = command("train", "--store", trained["store"], "--out", trained["run"], *grid)
    assert json.loads(out) == results(trained["run"])
    assert (trained["run"] / "results.jsonl").read_bytes() == before
    assert "words: every network (read) has a result already" in err


def test_evaluate_gives_the_metrics_that_training_reported(trained, command) -> None:
    out, _ = command("evaluate", "--store", trained["store"], "--network", trained["run"], "--baselines", "--json")
    metrics = {row["network"]: row["metric"] for row in json.loads(out)}
    assert {"majority class", "untrained backbone"} <= set(metrics)
    for found in results(trained["run"]):
        assert metrics[found["network"]] == pytest.approx(found["test"])
    out, _ = command("evaluate", "--store", trained["store"], "--network", trained["run"], "--split", "validation")
    assert all(name in out for name in GRID)
    both = ("--split", "validation_and_test", "--json")
    out, _ = command("evaluate", "--store", trained["store"], "--network", trained["run"], *both)
    metrics = {row["network"]: row["metric"] for row in json.loads(out)}
    for found in results(trained["run"]):
        assert metrics[found["network"]] == pytest.approx(found["validation_and_test"])
        assert metrics[found["network"]] != found["test"]


def test_predict_scores_what_evaluate_reports(trained, rows_folder, command) -> None:
    words = ("predict", "--network", trained["run"], "--model", trained["model"], "--json")
    out, _ = command(*words, "--file", rows_folder / "words" / "test.jsonl")
    predictions = [json.loads(line) for line in out.splitlines()]
    rows = [json.loads(line) for line in (rows_folder / "words" / "test.jsonl").read_text().splitlines()]
    assert len(predictions) == 4 * len(rows)
    labels = ["no", "yes it is", "yes it was"]
    for found in results(trained["run"]):
        own = [line["label"] for line in predictions if line["network"] == found["network"]]
        right = [label == labels[row["label"]] for label, row in zip(own, rows, strict=True)]
        assert 100 * sum(right) / len(right) == pytest.approx(found["test"])


def test_finetune_trains_live_methods_on_the_stores_rows(trained, tmp_path, command) -> None:
    words = ("finetune", "--store", trained["store"], "--out", tmp_path, "--method", "full", "--method", "lora")
    out, err = command(*words, "--lr", 0.001, "--epochs", 1, "--json")
    found = json.loads(out)
    assert {line["kind"] for line in found} == {"full", "lora"}
    assert all(line["validation"] is not None and line["extraction"] is None for line in found)
    assert found == results(tmp_path)
    assert "epoch 1 of 1" in err


def test_stores_of_one_task_are_told_apart(trained, rows_folder, tmp_path, command) -> None:
    """By folders of networks, and where networks of both are evaluated."""
    other = tmp_path / "int8"
    command(*extraction(trained["model"], rows_folder, other, dtype="int8"))
    train = ("--cell", "rnn", "--hidden", 4, "--epochs", 1)
    command("train", "--store", trained["store"], "--store", other, "--out", tmp_path / "run", *train)
    folders = sorted(path.name for path in (tmp_path / "run").iterdir() if path.name.startswith("words-"))
    assert len(folders) == 2
    out, _ = command("evaluate", "--store", other, "--network", tmp_path / "run", "--json")
    assert [row["network"] for row in json.loads(out)] == [f"{name}/read-rnn-4-lr0.0005-seed0" for name in folders]


def test_extracting_again_does_nothing(trained, rows_folder, command) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained["store"].rglob("*")}
    _, err = command(*extraction(trained["model"], rows_folder, trained["store"]))
    assert f"{trained['store']} is complete already" in err
    assert {path: path.stat().st_mtime_ns for path in trained["store"].rglob("*")} == before


def test_the_best_come_first_where_scores_are_zero_and_below(capsys) -> None:
    """0 is what the majority class has on CoLA and STS-B."""
    scores = (-5.0, None, 0.0, 3.0)
    cola = [result("cola", seed=n, validation=score) for n, score in enumerate(scores)]
    show(Results([*cola, result("stsb", seed=9, validation=90.0)]), json=False)
    assert re.findall(r"-seed(\d)", capsys.readouterr().out) == ["3", "2", "0", "1", "9"]


def test_several_stores_of_one_task_are_named() -> None:
    """Networks of two backbones had equal rows, without a word of which was which."""
    one, other = result(store="stores/a/cola"), result(store="stores/b/cola")
    assert [row["store"] for row in Results([one, other])] == ["stores/a/cola", "stores/b/cola"]
    assert "store" not in Results([one, one, result("stsb", store="stores/b/stsb")]).columns


def test_numbers_are_whole_in_a_narrow_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setattr(output, "stdout", Console(width=60, highlight=False))
    output.print_table(("task", "network", "parameters"), [["sample-sentiment" * 2, "gru-128-lr0.0005" * 2, 56704]])
    shown = capsys.readouterr().out
    assert "56,704" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_a_table_that_would_hide_its_text_is_printed_as_paragraphs(monkeypatch, capsys) -> None:
    """In 80 columns, the numbers of `train` left none to the names of networks."""
    monkeypatch.setattr(output, "stdout", Console(width=80, highlight=False))
    show(Results([result("cola", seed=n, validation=n) for n in range(2)]), json=False)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert all(f"network read-lr0.001-seed{n}" in shown for n in range(2)), shown
    assert "parameters_percent" in shown


def test_a_missing_number_is_a_dash(capsys) -> None:
    """pandas has NaN in its place."""
    output.print_table(("kind", "mrpc"), [["read", float("nan")], ["probe", 1.0]])
    assert "nan" not in capsys.readouterr().out


def test_brackets_of_a_cell_are_printed(capsys) -> None:
    output.print_table(("setting", "effect"), [["head.pooling", "apart: [a, b]"]])
    assert "apart: [a, b]" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["extract", "train", "finetune", "bench"])
def test_every_listed_setting_is_taken_with_its_default(name, command) -> None:
    from read_cache.bench.case import BenchConfig
    from read_cache.cli.settings import parse_set
    from read_cache.config import ExtractConfig, ExtractPlace, Place
    from read_cache.methods.run import live_methods
    from read_cache.training.recipe import Recipe, side_networks

    rows = json.loads(command("settings", name, "--json")[0])
    assert all(row["help"] for row in rows)
    recipe = Recipe(kinds=side_networks() if name == "train" else live_methods())
    for row in (row for row in rows if row["default"] and "recipes" not in row["owner"]):
        if name in ("extract", "bench") or row["owner"] == "machine":
            parse_set([f"{row['name']}={row['default']}"], [ExtractConfig, ExtractPlace, Place, BenchConfig])
        else:
            recipe = recipe.override({row["name"]: row["default"]}, text=True)
    if name in ("train", "finetune"):
        assert {"learning_rate", "seed", "head.pooling", "epochs"} <= set(recipe.values)


HELP = """import contextlib, io, json, sys
from read_cache.cli import main
told, before = {}, set()
for name in sys.argv[1:]:
    sys.argv = ["read-cache", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    loaded = {"transformers", "datasets", "pandas"} & set(sys.modules)
    told[name], before = (code, printed.getvalue(), sorted(loaded - before)), loaded
print(json.dumps(told))"""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int, str, list[str]]]:
    """By command: the exit code of its --help, what that prints, and which heavy packages it has loaded."""
    words = [sys.executable, "-c", HELP, *COMMANDS]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_needs_no_backbone(helps, name) -> None:
    code, printed, loaded = helps[name]
    assert (code, loaded) == (0, [])
    assert f"read-cache {name} " in printed
    if name in ("extract", "train", "finetune", "compare"):
        settings = {option for option in options_of(name) if option.startswith("--")} - set(SHOWN)
        assert len(settings) <= 14, settings


def test_version_and_unknown_commands(command, monkeypatch, capsys) -> None:
    assert re.fullmatch(r"read-cache \d+\.\d+\.\d+\S*\n", command("--version")[0])
    code, _, err = run(["extrakt"], monkeypatch, capsys)
    assert (code, "Usage: " in err, "extrakt" in err) == (2, True, True)
    code, out, err = run([], monkeypatch, capsys)
    assert "train" in out + err


def test_a_reader_that_goes_away_is_no_error() -> None:
    """As in `read-cache settings train --json | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "settings", "train", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1  # as Typer has it


def test_demo_runs_the_main_job_from_any_folder(tmp_path, command, monkeypatch) -> None:
    monkeypatch.setattr(read_cache, "extract", functools.partial(read_cache.extract, max_examples=100))
    monkeypatch.chdir(tmp_path)
    out, err = command("demo", "--out", "here", "--task", "sample-sentiment", "--epochs", 1)
    for row in ("majority class", "untrained backbone", "probe-lr0.0005-seed0", "read-rnn-128-lr", "read_matching-rnn"):
        assert row in out
    assert (tmp_path / "here" / "stores" / "sample-sentiment" / "manifest.json").exists()
    for line in re.findall(r"read-cache (.+)", err):
        command(*line.split())
