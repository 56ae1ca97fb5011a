"""Whole commands, as a user types them, on the bundled backbone and small rows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from conftest import run_cli
from read_cache.cli.app import COMMANDS
from read_cache.store.schema import SCHEMA_VERSION


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path], rows_folder: Path) -> dict[str, Path]:
    """Paths of a store and a run folder that the commands made."""
    root = tmp_path_factory.mktemp("commands")
    options = ("--task", rows_folder / "words.toml", "--dataset", rows_folder / "words", "--part-tokens", 200)
    done = run_cli("extract", "--model", models["untied"], "--store", root / "stores" / "words", *options, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["store"] == str(root / "stores" / "words")
    grid = ("--cell", "rnn", "--cell", "gru", "--hidden", 8, "--seed", 0, "--seed", 1, "--epochs", 2)
    done = run_cli("train", "--store", root / "stores", "--out", root / "run", *grid)
    assert done.returncode == 0, done.stderr
    assert "ETA" in done.stderr
    return {
        "store": root / "stores" / "words",
        "run": root / "run",
        "model": models["untied"],
        "table": Path(done.stdout),
    }


def test_train_prints_a_row_and_writes_a_line_for_each_network(trained) -> None:
    results = [json.loads(line) for line in (trained["run"] / "results.jsonl").read_text().splitlines()]
    assert len(results) == 4
    assert {result["network"] for result in results} == {
        f"{cell}-8-lr0.0005-seed{seed}" for cell in ("rnn", "gru") for seed in (0, 1)
    }
    for result in results:
        assert f"{result['validation']:.2f}" in str(trained["table"])
        assert 0 < result["parameters_percent"] < 100
        assert {path.name for path in Path(result["folder"]).iterdir()} == {
            "README.md",
            "config.json",
            "model.safetensors",
        }


def test_evaluate_gives_the_metrics_that_training_reported(trained) -> None:
    done = run_cli("evaluate", "--store", trained["store"], "--network", trained["run"], "--json")
    told = {row["network"]: row["metric"] for row in json.loads(done.stdout)["results"]}
    for line in (trained["run"] / "results.jsonl").read_text().splitlines():
        assert told[json.loads(line)["network"]] == pytest.approx(json.loads(line)["test"])


def test_predict_agrees_with_evaluate_and_passes_the_backbone_once_for_all(trained, rows_folder, tmp_path) -> None:
    source = (rows_folder / "words" / "test.jsonl").read_text().splitlines()
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(json.loads(line)["sentence"] for line in source) + "\n\n")
    options = ("--network", trained["run"], "--model", trained["model"], "--json")
    done = run_cli("predict", *options, "--file", file)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 4 * len(source)
    for one in found:
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert one["label"] == max(one["probabilities"], key=one["probabilities"].get)
    labels = ["no", "yes it is", "yes it was"]
    for line in (trained["run"] / "results.jsonl").read_text().splitlines():
        result = json.loads(line)
        own = [one["label"] for one in found if one["network"] == result["network"]]
        right = [label == labels[json.loads(row)["label"]] for label, row in zip(own, source, strict=True)]
        assert 100 * sum(right) / len(right) == pytest.approx(result["test"])
    rows = run_cli("predict", *options, source[0])
    assert json.loads(rows.stdout.splitlines()[0])["probabilities"] == pytest.approx(
        found[0]["probabilities"], abs=0.02
    )


def test_inspect_tells_sizes_by_array_and_a_networks_share_of_the_backbone(trained) -> None:
    told = run_cli("inspect", trained["store"])
    assert "encoder/hidden" in told.stdout
    assert "bytes a token" in told.stdout
    network = next(trained["run"].glob("*/rnn*"))
    assert "% of the backbone" in run_cli("inspect", network).stdout
    assert (
        json.loads(run_cli("inspect", trained["store"], "--json").stdout)["manifest"]["schema_version"]
        == SCHEMA_VERSION
    )


def test_verify_finds_a_good_store_good(trained) -> None:
    done = run_cli("verify", trained["store"].parent)
    assert (done.returncode, done.stdout) == (0, "")
    assert "every chunk is there, intact and finite" in done.stderr


def test_stores_of_one_task_are_told_apart(trained, rows_folder, tmp_path) -> None:
    """In train's table, in TensorBoard's folders, and where networks of both are evaluated."""
    options = ("--task", rows_folder / "words.toml", "--dataset", rows_folder / "words", "--part-tokens", 200)
    other = tmp_path / "int8"
    made = run_cli("extract", "--model", trained["model"], "--store", other, *options, "--dtype", "int8")
    assert made.returncode == 0, made.stderr
    train = ("--cell", "rnn", "--hidden", 4, "--epochs", 1, "--tensorboard")
    done = run_cli("train", "--store", trained["store"], "--store", other, "--out", tmp_path / "run", *train)
    assert done.returncode == 0, done.stderr
    assert f"({other}, " in done.stdout
    folders = sorted(path.name for path in (tmp_path / "run").iterdir() if path.name.startswith("words-"))
    assert len(folders) == 2
    assert sorted(path.name for path in (tmp_path / "run" / "tensorboard").iterdir()) == folders
    told = run_cli("evaluate", "--store", other, "--network", tmp_path / "run", "--json").stdout
    found = [row["network"] for row in json.loads(told)["results"]]
    assert found == [f"{name}/rnn-4-lr0.0005-seed0" for name in folders]


def test_the_best_come_first_where_scores_are_zero_and_below(trained, capsys) -> None:
    """0 is what the majority class has on CoLA and STS-B."""
    from read_cache.cli.train import print_results

    one = json.loads((trained["run"] / "results.jsonl").read_text().splitlines()[0])
    scores = (-5.0, None, 0.0, 3.0)
    print_results([one | {"network": f"n{n}-seed0", "seed": 0, "validation": score} for n, score in enumerate(scores)])
    shown = capsys.readouterr().out
    assert sorted(range(4), key=lambda n: shown.index(f"n{n}-seed0")) == [3, 2, 0, 1]


def test_numbers_are_whole_in_a_narrow_terminal(monkeypatch, capsys) -> None:
    from read_cache.cli import output

    monkeypatch.setattr(output, "stdout", Console(width=60, highlight=False))
    output.print_table(("task", "network", "parameters"), [["sample-sentiment" * 2, "gru-128-lr0.0005" * 2, 56704]])
    shown = capsys.readouterr().out
    assert "56,704" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_an_unfinished_store_is_a_finding(trained, tmp_path) -> None:
    shutil.copytree(trained["store"], tmp_path / "whole")
    shutil.copytree(trained["store"], tmp_path / "begun")
    (tmp_path / "begun" / "manifest.json").rename(tmp_path / "begun" / "plan.json")
    done = run_cli("verify", tmp_path, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        str(tmp_path / "whole"): [], str(tmp_path / "begun"): ["its extraction has not ended"],
    }  # fmt: skip


def test_extracting_again_does_nothing(trained, rows_folder) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained["store"].rglob("*")}
    options = ("--task", rows_folder / "words.toml", "--dataset", rows_folder / "words", "--part-tokens", 200)
    done = run_cli("extract", "--model", trained["model"], "--store", trained["store"], *options)
    assert "complete already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in trained["store"].rglob("*")} == before


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_rows_come_from_csv_and_parquet_too(tmp_path, models, rows_folder, kind) -> None:
    import pandas

    for split in ("train", "validation", "test"):
        rows = pandas.read_json(rows_folder / "words" / f"{split}.jsonl", lines=True)
        rows.to_parquet(tmp_path / f"{split}.parquet") if kind == "parquet" else rows.to_csv(
            tmp_path / f"{split}.{kind}", index=False
        )
    from read_cache.extract.rows import load_folder

    as_read = str if kind.startswith("csv") else lambda value: value  # a CSV does not say what is a number
    expected = load_folder(rows_folder / "words")
    assert load_folder(tmp_path) == {
        split: [{name: as_read(value) for name, value in row.items()} for row in rows]
        for split, rows in expected.items()
    }


def test_help_shows_every_default_and_needs_no_heavy_library() -> None:
    program = (
        "import sys\nfrom read_cache.cli.app import build_app\n"
        "build_app(('train',)); print(sorted({'torch', 'transformers', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "transformers" not in done.stdout
    for command in COMMANDS:
        done = run_cli(command, "--help")
        assert done.returncode == 0
        assert "[default: " in done.stdout or command in ("inspect", "verify")


def test_demo_runs_the_main_job_from_any_folder(tmp_path) -> None:
    done = run_cli("demo", "--out", "here", "--task", "sample-sentiment", "--epochs", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for row in ("majority class", "untrained backbone", "READ gru-128", "READ rnn-128-matching64"):
        assert row in done.stdout
    assert (tmp_path / "here" / "stores" / "sample-sentiment" / "manifest.json").exists()
    assert "here/runs" in done.stderr
