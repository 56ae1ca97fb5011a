"""The paper's GLUE: `read-cache compare` skips finished work and does again what changed; the Makefile calls it."""

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from read_cache.data import bundled_backbone
from support.processes import interrupt, run

ROOT = Path(__file__).parents[2]
TINY = """[network]
cell = ["rnn", "gru"]
hidden = 4
[run]
epochs = 1
[search]
final_seeds = [0, 1]
"""
COMMAND = shlex.split("compare --model model --recipe tiny.toml --dataset rows --out runs")
STAND_IN = '#!/bin/sh\nprintf "%s\\0" "$@" >> "$CALLS"\nprintf "\\n" >> "$CALLS"\n'


def write_rows(folder: Path, task: str, offset: int = 0) -> None:
    """Rows of two of GLUE's tasks; the protocol halves their validation rows."""
    (folder / task).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 12), ("validation", 8)):
        rows = [
            {"sentence": f"The river is {number + offset} miles long.", "label": number % 2}
            if task == "cola"
            else {"sentence1": f"It is {number}.", "sentence2": f"So {offset}.", "label": number % 5}
            for number in range(count)
        ]
        (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def glue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `read-cache compare` on two tasks or one: (the stages that really ran, stderr)."""
    for task in ("cola", "stsb"):
        write_rows(tmp_path / "rows", task)
    (tmp_path / "tiny.toml").write_text(TINY)
    shutil.copytree(bundled_backbone("t5-tiny-wiki") or "", tmp_path / "model")
    monkeypatch.chdir(tmp_path)

    def glue(*words: object, tasks: tuple[str, ...] = ("cola", "stsb"), code: int = 0) -> tuple[set[str], str]:
        found, _, err = run([*COMMAND, *words, *(f"--task={task}" for task in tasks)], monkeypatch, capsys)
        assert found == code, err
        lines = err.splitlines()
        ran = {f"extract {Path(line).name}" for line in lines if line.startswith("sealed ")}
        ran |= {f"train {line.partition(':')[0]}" for line in lines if "; the training split is " in line}
        return ran, err

    return glue


def both(*tasks: str) -> set[str]:
    return {f"{stage} {task}" for task in tasks for stage in ("extract", "train")}


def lines(run: Path) -> int:
    return len((run / "results.jsonl").read_bytes().splitlines())


def test_finished_work_is_skipped_and_a_changed_store_trains_its_task_alone(glue, tmp_path) -> None:
    runs, stores = tmp_path / "runs", tmp_path / "stores" / "model"
    assert glue(tasks=("cola",))[0] == both("cola")
    assert glue()[0] == both("stsb")
    counts = [lines(runs / task) for task in ("cola", "stsb")]
    assert counts == [3, 3], "a grid of two, then the best with another seed"
    assert glue()[0] == set()

    shutil.rmtree(stores / "stsb")
    assert glue()[0] == {"extract stsb"}, "the same store again: its networks are trained already"
    shutil.rmtree(stores / "stsb")
    write_rows(tmp_path / "rows", "stsb", offset=5)
    assert glue()[0] == both("stsb")
    assert [lines(runs / task) for task in ("cola", "stsb")] == [3, 6]


def test_both_tables_of_two_recipes(glue, tmp_path, command) -> None:
    glue()
    Path("untied.toml").write_text("[network]\nhidden = 4\nrecurrent = false\n[run]\nepochs = 1\n")
    words = ("--recipe", "untied.toml", "--out", "runs/untied")
    assert glue(*words)[0] == {"train cola", "train stsb"}
    assert glue(*words)[0] == set()
    runs = [folder / task for folder in (Path("runs"), Path("runs/untied")) for task in ("cola", "stsb")]
    for table, rows in (("table1", runs[:2]), ("table2", runs)):
        out, _ = command("tables", table, *rows, "--out", "runs")
        assert out == Path(f"runs/{table}.md").read_text()
        assert ("| read, here |" in out, "| read (untied), here |" in out) == (True, table == "table2")


def test_settings_reach_their_stages(glue, tmp_path) -> None:
    words = ("--set", "extract.dtype=int8", "--set", "epochs=2")
    assert glue(*words, tasks=("cola",))[0] == both("cola")
    manifest = json.loads((tmp_path / "stores" / "model" / "cola" / "manifest.json").read_text())
    assert manifest["activations"]["format"]["dtype"] == "int8"
    line = json.loads((tmp_path / "runs" / "cola" / "results.jsonl").read_text().splitlines()[0])
    assert line["run"]["epochs"] == 2
    assert glue(*words, tasks=("cola",))[0] == set()
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY + "[tasks.cola]\ncell = 'lstm'\n[tasks.mnli]\nepochs = 2\n")
    ran, err = glue(*words, tasks=("cola",), code=2)
    assert (ran, "mnli" in err) == (set(), True)
    recipe.write_text(
        TINY.replace("hidden = 4", "hidden = 8") + "[tasks.cola]\ncell = 'lstm'\n[tasks.stsb]\ncell = 'rnn'\n"
    )
    assert glue(*words)[0] == {"train cola", *both("stsb")}, "tables of several tasks"


def test_after_a_failure_the_rest_is_done(glue, tmp_path) -> None:
    (tmp_path / "rows" / "stsb" / "validation.jsonl").rename(tmp_path / "kept")
    ran, err = glue(code=2)
    assert ran == both("cola")
    assert "validation" in err
    (tmp_path / "kept").rename(tmp_path / "rows" / "stsb" / "validation.jsonl")
    assert glue()[0] == both("stsb")


@pytest.mark.slow
def test_killed_in_its_first_training(glue, tmp_path) -> None:
    """The same command continues; the scores are those of a run that nobody disturbed."""
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 1", "epochs = 40\npatience = 40"))
    runs = tmp_path / "runs"
    interrupt(
        [*COMMAND, "--task=cola", "--task=stsb"],
        lambda: bool(list(runs.rglob("checkpoint.safetensors"))),
        signal.SIGKILL,
    )
    sealed = (tmp_path / "stores" / "model" / "cola" / "manifest.json").stat().st_mtime_ns
    assert glue()[0] == both("cola", "stsb") - {"extract cola"}
    assert (tmp_path / "stores" / "model" / "cola" / "manifest.json").stat().st_mtime_ns == sealed
    names = ("method", "validation", "test", "train_loss", "best_epoch")

    def scores() -> list[tuple[object, ...]]:
        tables = [json.loads((runs / task / "compare.json").read_text())["methods"] for task in ("cola", "stsb")]
        return [tuple(method.get(name) for name in names) for table in tables for method in table]

    found = scores()
    shutil.rmtree(runs)
    glue()
    assert found == scores()


class Make:
    """`make` with a stand-in for read-cache, which writes down its arguments."""

    def __init__(self, folder: Path) -> None:
        self.log, program = folder / "calls", folder / "read-cache"
        program.write_text(STAND_IN)
        program.chmod(0o755)
        self.words = ["make", "--no-print-directory", "-o.venv/ready", "-o.venv/models", f"BIN={folder}"]
        self.environment = {n: v for n, v in os.environ.items() if n not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}

    def __call__(self, *words: str) -> list[list[str]]:
        """The calls of read-cache."""
        self.log.unlink(missing_ok=True)
        done = subprocess.run(
            [*self.words, *words], cwd=ROOT, env=self.environment | {"CALLS": str(self.log)}, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [line.split("\0")[:-1] for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return Make(tmp_path)


def options(words: list[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(words))


PAPER = {("--task", task) for task in ("cola", "mnli", "qnli", "mrpc", "qqp", "sst2", "stsb")}


def test_targets_call_compare_and_then_the_table(make, tmp_path) -> None:
    call, table = make("glue")
    tasks = " ".join(f"--task {task}" for task in ("cola", "mnli", "qnli", "mrpc", "qqp", "sst2", "stsb"))
    assert call == shlex.split(f"compare --model t5-base --recipe paper --out runs/t5-base {tasks}")
    assert (table[:2], table[-2:]) == (["tables", "table1"], ["--out", "runs/t5-base"])
    call, _ = make("glue-qnli", "MODEL=org/other", "DEVICE=cuda", "RECIPE=mine.toml", "GLUE=rows")
    wanted = {("--model", "org/other"), ("--device", "cuda"), ("--recipe", "mine.toml"), ("--out", "runs/other")}
    assert options(call) >= wanted | {("--dataset", "rows"), ("--task", "qnli")}
    assert call.count("--task") == 1
    call, _ = make("glue", "TASKS=cola stsb", "SETTINGS=--set extract.dtype=int8 --set memory=9")
    assert options(call) >= {("--task", "cola"), ("--task", "stsb"), ("--set", "memory=9")}
    for task in ("stsb", "cola", "rte"):
        (tmp_path / task).mkdir()
    call, _ = make("glue", f"GLUE={tmp_path}")
    assert {pair for pair in options(call) if pair[0] == "--task"} == {("--task", "cola"), ("--task", "stsb")}
    assert options(make("glue-large", "DEVICE=cuda")[0]) >= {("--model", "t5-large"), ("--device", "cuda")} | PAPER
    tied, table1, untied, table2 = make("glue-untied")
    assert [call[1] for call in (table1, table2)] == ["table1", "table2"]
    assert options(tied) >= {("--recipe", "paper"), ("--out", "runs/t5-base")}
    assert options(untied) >= {("--recipe", "table2"), ("--out", "runs/t5-base/untied")}
    tied, _, untied, _ = make("glue-sample", f"GLUE={tmp_path}")
    shared = {("--model", "t5-tiny-wiki"), ("--set", "extract.max_examples=10000"), ("--task", "stsb")}
    assert options(tied) >= shared | {("--recipe", "sample"), ("--out", "runs/glue-sample")}
    assert options(untied) >= shared | {("--recipe", "sample-untied"), ("--out", "runs/glue-sample/untied")}
    assert options(make("glue-sample")[0]) >= {("--task", "sample-sentiment"), ("--out", "runs/sample-tasks")}
    assert [call[0] for call in make("glue-cola", "table1")] == ["compare", "tables", "tables"]
    assert make("demo", "OUT=there") == [["demo", "--out", "there"]]


def test_the_papers_methods_are_compared_and_drawn(make) -> None:
    call, table1, table2, figures = make("paper")
    assert options(call) >= {("--recipe", "methods"), ("--out", "comparisons/t5-base")} | PAPER
    assert [words[:2] for words in (table1, table2)] == [["tables", "table1"], ["tables", "table2"]]
    assert figures[:2] == ["figures", "comparisons/t5-base/cola"]
    sample = {("--recipe", "methods-sample"), ("--model", "t5-tiny-wiki"), ("--set", "extract.max_examples=1000")}
    assert options(make("paper-sample")[0]) >= sample | {("--task", "sample-sentiment")}


def test_pretrained_backbones_are_compared_a_task_at_a_time(make) -> None:
    *tasks, decoder, report = make("real", "GLUE=rows", "METHODS=probe read")
    rows = {"mnli": 3000}
    for task, call in zip(("cola", "mrpc", "stsb", "sst2", "qnli", "mnli"), tasks, strict=True):
        own = {("--task", task), ("--set", f"extract.max_examples={rows.get(task, 10000)}")}
        assert options(call) >= own | {("--recipe", "real"), ("--model", "minilm-l6"), ("--dataset", "rows")}
        assert options(call) >= {("--method", "probe"), ("--method", "read")}
    assert options(decoder) >= {("--recipe", "real-decoder"), ("--model", "smollm2-135m")}
    assert report[0] == "report"
    assert f"comparisons/minilm-l6/{task}" in report


def test_tables_take_the_runs_that_have_results(make, tmp_path) -> None:
    for place in ("cola", "stsb", "untied/cola"):
        (tmp_path / "runs" / "other" / place).mkdir(parents=True)
        (tmp_path / "runs" / "other" / place / "results.jsonl").touch()
    (tmp_path / "runs" / "other" / "begun").mkdir()
    make.words += ["--directory", str(tmp_path), "--file", str(ROOT / "Makefile"), "MODEL=org/other/"]
    first, second = make("table1", "table2")
    runs = ["runs/other/cola", "runs/other/stsb"]
    assert first == ["tables", "table1", *runs, "--out", "runs/other"]
    assert second == ["tables", "table2", *runs, "runs/other/untied/cola", "--out", "runs/other"]


def test_words_of_the_targets_are_options_of_the_commands(make) -> None:
    from support.spoil import options_of

    calls = [("glue-untied", "GLUE=rows", "TASKS=cola"), ("glue-sample",), ("paper",), ("real",), ("demo",)]
    for words in [words for call in calls for words in make(*call)]:
        assert {word for word in words if word.startswith("--")} <= options_of(words[0])
