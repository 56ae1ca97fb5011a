"""`read-cache glue`: finished work is skipped, what changed is done again; and the Makefile's targets that call it."""

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from read_cache.cli import glue as glue_module
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
    """Run `read-cache glue` on two tasks: (the stages that really ran, the tables, stderr)."""
    for task in ("cola", "stsb"):
        write_rows(tmp_path / "rows", task)
    (tmp_path / "tiny.toml").write_text(TINY)
    model = Path(shutil.copytree(bundled_backbone("t5-tiny-wiki") or "", tmp_path / "model"))

    def glue(*words: object, code: int = 0) -> tuple[set[str], str, str]:
        places = ("--stores", tmp_path / "stores", "--out", tmp_path / "runs", "--dataset", tmp_path / "rows")
        command = ["glue", "--model", model, "--recipe", tmp_path / "tiny.toml", *places, *words]
        found, out, err = run(command, monkeypatch, capsys)
        assert found == code, err
        lines = err.splitlines()
        ran = {f"extract {Path(line).name}" for line in lines if line.startswith("sealed ")}
        ran |= {f"train {line.partition(':')[0]}" for line in lines if "; the training split is " in line}
        return ran, out, err

    return glue


def both(*tasks: str) -> set[str]:
    return {f"{stage} {task}" for task in tasks for stage in ("extract", "train")}


def lines(run: Path) -> int:
    return len((run / "results.jsonl").read_bytes().splitlines())


def test_finished_work_is_skipped_and_a_changed_store_trains_its_task_alone(glue, tmp_path) -> None:
    runs, stores = tmp_path / "runs", tmp_path / "stores"
    ran, out, _ = glue("--task", "cola")
    assert ran == both("cola")
    assert "| read, here |" in out
    ran, out, _ = glue()
    assert ran == both("stsb")
    assert "cola" in out.lower()
    assert out == (runs / "table1.md").read_text()
    assert [path.name for path in runs.glob("table1.*")] == ["table1.md"]
    counts = [lines(runs / task) for task in ("cola", "stsb")]
    assert counts == [3, 3], "a grid of two, then the best with another seed"
    assert glue()[0] == set()

    shutil.rmtree(stores / "stsb")
    ran, _, _ = glue()
    assert ran == {"extract stsb"}, "the same store again: its networks are trained already"
    shutil.rmtree(stores / "stsb")
    write_rows(tmp_path / "rows", "stsb", offset=5)
    assert glue()[0] == both("stsb")
    assert [lines(runs / task) for task in ("cola", "stsb")] == [3, 6]

    untied = tmp_path / "untied.toml"
    untied.write_text("[network]\nhidden = 4\nrecurrent = false\n[run]\nepochs = 1\n")
    ran, out, _ = glue("--untied", untied)
    assert ran == {"train cola", "train stsb"}
    assert out == "".join((runs / f"{table}.md").read_text() for table in ("table1", "table2"))
    assert lines(runs / "untied" / "cola") == 1
    assert glue("--untied", untied)[0] == set()


def test_options_reach_their_stages(glue, tmp_path) -> None:
    words = ("--task", "cola", "--set", "dtype=int8", "--train-set", "epochs=2")
    assert glue(*words)[0] == both("cola")
    manifest = json.loads((tmp_path / "stores" / "cola" / "manifest.json").read_text())
    assert manifest["activations"]["format"]["dtype"] == "int8"
    line = json.loads((tmp_path / "runs" / "cola" / "results.jsonl").read_text().splitlines()[0])
    assert line["run"]["epochs"] == 2
    assert glue(*words)[0] == set()
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY + "[tasks.cola]\ncell = 'lstm'\n[tasks.mnli]\nepochs = 2\n")
    ran, _, err = glue(*words, code=2)
    assert (ran, "mnli" in err) == (set(), True)
    recipe.write_text(TINY.replace("hidden = 4", "hidden = 8"))
    assert glue(*words)[0] == {"train cola"}


def test_after_a_failure_the_rest_is_done(glue, tmp_path, monkeypatch) -> None:
    (tmp_path / "rows" / "stsb" / "validation.jsonl").rename(tmp_path / "kept")
    ran, out, err = glue(code=2)
    assert (ran, out) == (both("cola"), "")
    assert "validation" in err
    (tmp_path / "kept").rename(tmp_path / "rows" / "stsb" / "validation.jsonl")
    assert glue()[0] == both("stsb")


@pytest.mark.slow
def test_killed_in_its_first_training(glue, tmp_path) -> None:
    """The same command continues; the tables are those of a run that nobody disturbed."""
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 1", "epochs = 40\npatience = 40"))
    stores, runs, rows = (tmp_path / name for name in ("stores", "runs", "rows"))
    words = ["glue", "--model", tmp_path / "model", "--recipe", tmp_path / "tiny.toml", "--dataset", rows]
    words += ["--stores", stores, "--out", runs]
    interrupt(words, lambda: bool(list(runs.rglob("checkpoint.safetensors"))), signal.SIGKILL)
    sealed = (stores / "cola" / "manifest.json").stat().st_mtime_ns
    assert glue()[0] == both("cola", "stsb") - {"extract cola"}
    assert (stores / "cola" / "manifest.json").stat().st_mtime_ns == sealed
    scores = [[cell for cell in row.split("|") if "±" in cell] for row in (runs / "table1.md").read_text().splitlines()]
    shutil.rmtree(runs)
    glue()
    again = [[cell for cell in row.split("|") if "±" in cell] for row in (runs / "table1.md").read_text().splitlines()]
    assert scores == again
    assert any(scores)


def test_tasks_are_those_of_the_rows_or_the_papers_or_the_samples(tmp_path) -> None:
    assert glue_module.tasks_in(None, "t5-base") == glue_module.GLUE_TASKS
    assert glue_module.tasks_in(None, "t5-tiny-wiki") == glue_module.SAMPLE_TASKS
    for task in ("stsb", "cola", "rte"):
        (tmp_path / task).mkdir()
    assert glue_module.tasks_in(tmp_path, "t5-base") == ("cola", "stsb")


class Make:
    """`make` with a stand-in for read-cache, which writes down its arguments."""

    def __init__(self, folder: Path) -> None:
        self.log, program = folder / "calls", folder / "read-cache"
        program.write_text(STAND_IN)
        program.chmod(0o755)
        self.words = ["make", "--no-print-directory", "--old-file=.venv/ready", f"BIN={folder}"]
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


def test_targets_call_glue(make) -> None:
    [call] = make("glue")
    assert call == shlex.split("glue --model t5-base --recipe paper")
    [call] = make("glue-qnli", "MODEL=org/other", "DEVICE=cuda", "RECIPE=mine.toml", "GLUE=rows")
    wanted = {("--model", "org/other"), ("--device", "cuda"), ("--recipe", "mine.toml"), ("--task", "qnli")}
    assert options(call) >= wanted | {("--dataset", "rows")}
    [call] = make("glue", "TASKS=cola stsb", "EXTRACT=--set dtype=int8", "TRAIN=--train-set memory=9")
    assert options(call) >= {
        ("--task", "cola"),
        ("--task", "stsb"),
        ("--set", "dtype=int8"),
        ("--train-set", "memory=9"),
    }
    assert options(make("glue-large", "DEVICE=cuda")[0]) >= {("--model", "t5-large"), ("--device", "cuda")}
    assert options(make("glue-untied")[0]) >= {("--untied", "table2"), ("--recipe", "paper")}
    [call] = make("glue-sample", "GLUE=rows")
    assert options(call) >= {
        ("--model", "t5-tiny-wiki"),
        ("--untied", "sample-untied"),
        ("--set", "max_examples=10000"),
    }
    assert [call[0] for call in make("glue-cola", "glue-qnli", "table1")] == ["glue", "glue", "tables"]
    assert make("demo", "OUT=there") == [["demo", "--out", "there"]]


def test_tables_take_the_runs_that_have_results(make, tmp_path) -> None:
    for place in ("cola", "stsb", "untied/cola"):
        (tmp_path / "runs" / "other" / place).mkdir(parents=True)
        (tmp_path / "runs" / "other" / place / "results.jsonl").touch()
    (tmp_path / "runs" / "other" / "begun").mkdir()
    make.words += ["--directory", str(tmp_path), "--file", str(ROOT / "Makefile"), "MODEL=org/other/"]
    first, second = make("table1", "table2")
    runs = ["runs/other/cola/", "runs/other/stsb/"]
    assert first == ["tables", "table1", *runs, "--out", "runs/other"]
    assert second == ["tables", "table2", *runs, "runs/other/untied/cola/", "--out", "runs/other"]


def test_words_of_the_targets_are_options_of_the_commands(make) -> None:
    from support.spoil import options_of

    for words in [
        *make("glue-untied", "GLUE=rows", "TASKS=cola"),
        *make("table1"),
        *make("glue-sample"),
        *make("demo"),
    ]:
        assert {word for word in words if word.startswith("--")} <= options_of(words[0])
