"""What `make glue` runs, and what it does not run again; with a stand-in for read-cache, and slowly for real."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_hub import hub  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[1]
GLUE = ("cola", "mnli", "qnli", "mrpc", "qqp", "sst2", "stsb")
STAND_IN = """#!/bin/sh
echo "$@" >> "$CALLS"
command=$1
for word; do
  case $before in --store) store=$word ;; --out) out=$word ;; esac
  before=$word
done
case $command in
  extract) mkdir -p "$store"; echo "$store" > "$store/manifest.json" ;;
  train) test -e "$store/manifest.json" && echo '[]'; test ! -e "$CALLS.broken" ;;
  tables) echo "$2" > "$out/$2.md" ;;
esac
"""


class Make:
    """`make` on folders of the test's own; remembers nothing but what it ran."""

    def __init__(self, folder: Path, bin_folder: Path, **environment: str) -> None:
        self.stores, self.runs, self.log = folder / "stores", folder / "runs", folder / "calls"
        self.words = [f"BIN={bin_folder}", f"STORES={self.stores}", f"RUNS={self.runs}"]
        self.environment = {**os.environ, "CALLS": str(self.log), "OMP_NUM_THREADS": "1", **environment}
        self.environment.pop("MAKEFLAGS", None)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """In a process group of its own; the environment of Python is taken as it is."""
        command = ["make", "--no-print-directory", "--old-file=.venv/ready", *self.words, *words]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    def __call__(self, *words: str) -> tuple[int, str]:
        """Exit code and everything it said."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=900)
        return process.returncode, out + err

    def calls(self, *words: str, code: int = 0) -> list[str]:
        """The commands that it ran: stage, and the task where it has one."""
        self.log.unlink(missing_ok=True)
        found, said = self(*words)
        assert found == code, said
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [self._short(line) for line in lines if not line.startswith("report")]

    def _short(self, line: str) -> str:
        stage, *words = line.split()
        if stage == "tables":
            return words[0]
        return f"{stage} {Path(words[words.index('--store') + 1]).name}{' untied' * ('/untied/' in line)}"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """With the stand-in."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "read-cache"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return Make(tmp_path, tmp_path / "bin")


def both_stages(*tasks: str) -> list[str]:
    return [f"{stage} {task}" for task in tasks for stage in ("extract", "train")]


def test_seven_tasks_once(make) -> None:
    assert make.calls("glue") == [*both_stages(*GLUE), "table1"]
    assert make.calls("glue") == []
    assert "Nothing to be done for 'glue'" in make("glue")[1]
    assert make.calls("glue-untied") == [*(f"train {task} untied" for task in GLUE), "table2"]
    assert make.calls("glue-untied", "glue", "glue-qnli") == []
    assert make.calls("table1", "table2") == ["table1", "table2"]


def test_a_store_that_is_gone_or_newer_is_asked_for_its_task_alone(make) -> None:
    make.calls("glue", "glue-untied")
    (make.stores / "mrpc" / "manifest.json").unlink()
    assert make.calls("glue") == [*both_stages("mrpc"), "table1"]
    os.utime(make.stores / "sst2" / "manifest.json", (time.time() + 5,) * 2)
    assert make.calls("glue-sst2", "glue-cola") == ["train sst2"]


def test_after_a_failure_the_rest_is_done(make, tmp_path) -> None:
    broken = tmp_path / "calls.broken"
    broken.touch()
    assert make.calls("glue", code=2) == both_stages("cola")
    broken.unlink()
    assert make.calls("glue") == [*both_stages(*GLUE)[1:], "table1"]


def test_streaming_removes_each_store_and_does_not_miss_it(make, tmp_path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.touch()
    words = ("glue", "STREAM=1", f"RECIPE={recipe}", "TASKS=cola qnli")
    (make.stores / "sst2.removed").mkdir(parents=True)  # as a kill while it was removed leaves it
    assert make.calls(*words) == [*both_stages("cola", "qnli"), "table1"]
    assert list(make.stores.iterdir()) == []
    assert make.calls(*words) == []
    os.utime(recipe, (time.time() + 5,) * 2)
    assert make.calls(*words) == [*both_stages("cola", "qnli"), "table1"]
    assert make.calls("glue-qnli", *words[1:], "TRAIN=--epochs 3") == both_stages("qnli")
    assert list(make.stores.iterdir()) == []


def test_another_option_asks_both_stages_again(make, tmp_path) -> None:
    make.calls("glue")
    assert make.calls("glue", "DEVICE=cuda", "STREAM=1") == [], "they change no result"
    for option in ("EXTRACT=--dtype int8", "TRAIN=--epochs 3", "MODEL=t5-large", f"GLUE={tmp_path}"):
        assert make.calls("glue-cola", option) == both_stages("cola")
        assert make.calls("glue-cola", option) == []
    assert make.calls("glue-cola", "glue-qnli") == both_stages("cola")


def test_a_local_model_that_changed_is_asked_for(make, tmp_path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.touch()
    words = ("glue-cola", f"MODEL={tmp_path}", "STREAM=1")
    assert make.calls(*words) == both_stages("cola")
    os.utime(weights, (time.time() + 5,) * 2)
    assert make.calls(*words) == both_stages("cola")


def test_options_reach_their_stage(make) -> None:
    words = ("EXTRACT=--dtype int8", "TRAIN=--memory 9", "DEVICE=cuda", "GLUE=rows")
    _, said = make("-n", "glue-stsb", *words)
    extract, train = (next(line for line in said.splitlines() if f"cache {s}" in line) for s in ("extract", "train"))
    assert {"--model t5-base", "--dataset rows/stsb", "--dtype int8", "--device cuda"} <= options(extract)
    assert {"--recipe paper", "--memory 9", "--device cuda"} <= options(train)
    assert "MODEL=t5-large" in make("-n", "glue-large")[1]
    assert "--recipe table2" in make("-n", "glue-untied")[1]


def options(line: str) -> set[str]:
    return {f"--{option}".strip() for option in line.split(" --")[1:]}


def test_the_sample_is_the_rows_that_are_there_or_the_sample_tasks(make, tmp_path) -> None:
    for task in ("cola", "stsb", "rte"):
        (tmp_path / "rows" / task).mkdir(parents=True)
    called = make.calls("glue-sample", f"GLUE={tmp_path / 'rows'}")
    assert called[:4] == both_stages("cola", "stsb")
    assert called[4:] == ["table1", "train cola untied", "train stsb untied", "table2"]
    (tmp_path / "mine.toml").touch()
    _, said = make("-n", "glue-sample", f"GLUE={tmp_path / 'rows'}", "--always-make", f"RECIPE={tmp_path}/mine.toml")
    assert f"--model t5-tiny-wiki --dataset {tmp_path}/rows/cola --max-examples 10000" in " ".join(said.split())
    assert f"--recipe {tmp_path}/mine.toml --untied" in said
    assert "--task sample-similarity" in make("-n", "glue-sample")[1]
    for words, says in (
        ([f"GLUE={tmp_path / 'nowhere'}"], "nowhere holds no folder of a task"),
        ([f"RECIPE={tmp_path / 'none.toml'}"], "none.toml is not there"),
    ):
        code, said = make("-n", "glue-sample", *words)
        assert (code, says in said) == (2, True), said


def test_a_slash_after_the_models_name_changes_nothing(make) -> None:
    make.words = make.words[:1]
    assert make("-n", "glue-cola", "MODEL=data/backbone/")[1].count(" stores/backbone/cola") == 2


TINY = """[network]
cell = ["rnn", "gru"]
hidden = 8
[run]
epochs = 3
[search]
final_seeds = [0, 1, 2]
"""


@pytest.fixture
def real(tmp_path: Path) -> Make:
    """With read-cache itself, on few rows, with a small recipe."""
    (tmp_path / "tiny.toml").write_text(TINY)
    made = Make(tmp_path, Path(sys.executable).parent)
    made.words += ["EXTRACT=--max-examples 300", f"RECIPE={tmp_path / 'tiny.toml'}"]
    return made


def files(folder: Path, *names: str) -> dict[Path, int]:
    """Files of these names below a folder, and when they were written."""
    return {path: path.stat().st_mtime_ns for name in names for path in folder.rglob(name)}


@pytest.mark.slow
def test_the_sample_for_real(real) -> None:
    """Killed in the middle of its first training, it goes on to tables and pictures, and redoes what is deleted."""
    tasks = ("sample-sentiment", "sample-similarity")
    words = ("glue-sample", f"TASKS={' '.join(tasks)}")
    with real.start(*words) as process:
        while not list(real.runs.rglob("checkpoint.safetensors")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    stores = files(real.stores, "manifest.json")
    assert len(stores) == 1
    code, said = real(*words)
    assert code == 0, said
    assert "interrupted" not in said
    assert stores.items() <= files(real.stores, "manifest.json").items()
    made = files(real.runs, "table?.md", "table?.png", "index.html", "results.json", "results.jsonl")
    assert len(made) == 4 + 3 * 2 * len(tasks)
    text = (real.runs / "table1.md").read_text()
    assert "| READ, here | t5-tiny-wiki |" in text
    assert "the stage ran on cpu" in text
    assert "READ without recurrency, here" in (real.runs / "table2.md").read_text()

    code, said = real(*words)
    assert (code, "Nothing to be done for 'glue-sample'" in said) == (0, True)
    shutil.rmtree(real.stores / tasks[0])
    code, said = real(*words)
    assert code == 0, said
    assert said.count("read-cache extract") == 1
    again = files(real.runs, "results.jsonl")
    assert again.items() <= made.items(), "the same bytes again: no network is trained again"
    redone = dict(files(real.runs, "results.json").items() - made.items())
    assert {path.parent.name for path in redone} == {tasks[0]}


@pytest.mark.slow
def test_t5_base_and_qnli_by_name_streamed(real, hub) -> None:  # noqa: F811
    """As on a machine with the hub at hand, which a look-alike stands for."""
    kept = {name: value for name, value in real.environment.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    with hub.serve() as url:
        real.environment = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(real.runs / "home"), "NO_PROXY": "*"}
        code, said = real("glue-qnli", "table1", "MODEL=t5-base", "STREAM=1")
    assert code == 0, said
    assert not hub.unknown
    assert list(real.stores.iterdir()) == []
    assert "| READ, here | t5-base |" in (real.runs / "table1.md").read_text()
    assert "Nothing to be done" in real("glue-qnli", "MODEL=t5-base", "STREAM=1")[1]
