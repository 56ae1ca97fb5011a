"""Whole commands, killed at any moment: the same command continues, and ends with the same bytes."""

import json
import re
import signal
from functools import partial
from pathlib import Path

import pytest

from support.processes import contents, interrupt, run
from support.spoil import call
from support.stores import make_store

SMALL_PARTS = {"part_tokens": 24, "batch_tokens": 24}  # dozens of parts, so that many moments lie between them
HIDDEN = "arrays.zarr/train/encoder/hidden/c"


def done_parts(store: Path) -> list[int]:
    """Parts of the training split that are done: each has a chunk of `done`, in a folder that is made before it."""
    chunks = (store / "arrays.zarr/train/done/c").glob("[0-9]*/0")
    return sorted(int(path.parent.name) for path in chunks)


def has_parts(store: Path, parts: int) -> bool:
    """Return True if at least so many parts are done."""
    return len(done_parts(store)) >= parts


def times(store: Path, parts: list[int]) -> dict[str, int]:
    """When the given parts were written."""
    names = [f"{HIDDEN}/0/{part}/0" for part in parts]
    return {name: (store / name).stat().st_mtime_ns for name in names}


def test_extract(
    tmp_path: Path,
    models: dict[str, Path],
    rows_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed while planning and after 3 parts; Ctrl-C after 11; `train` refuses it; the same command finishes it."""
    task, rows, store = rows_folder / "words.toml", rows_folder / "words", tmp_path / "killed"
    expected = make_store(tmp_path / "whole", models["tied"], str(task), rows, **SMALL_PARTS)
    assert expected.manifest.splits["train"].parts > 15
    command = call("extract", model=models["tied"], task=task, dataset=rows, store=store, **SMALL_PARTS)

    code, _ = interrupt(command, (store / "arrays.zarr").exists, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (store / "manifest.json").exists()
    written: dict[str, int] = {}
    for parts, how in ((3, signal.SIGKILL), (11, signal.SIGINT)):
        code, stderr = interrupt(command, partial(has_parts, store, parts), how)
        assert has_parts(store, parts)
        assert (store / "plan.json").exists()
        assert not (store / "manifest.json").exists()
        written = times(store, done_parts(store)) | written  # a later time of a part seen before would fail below
        if how is signal.SIGINT:
            assert code == 130
            assert stderr.splitlines()[-1].startswith("interrupted: ")
            assert "Traceback" not in stderr
        else:
            assert code == -signal.SIGKILL

    code, _, stderr = run(["train", "--store", store, "--out", tmp_path / "runs"], monkeypatch, capsys)
    assert code == 2
    assert not (tmp_path / "runs").exists()
    assert str(store) in stderr
    assert "extract command" in stderr
    code, _, stderr = run(command, monkeypatch, capsys)
    assert code == 0, stderr
    assert re.search(r"continuing: \d+ of \d+ parts are done", stderr)
    assert written == {name: (store / name).stat().st_mtime_ns for name in written}
    assert contents(store) == contents(tmp_path / "whole")


def lines(run: Path) -> list[dict[str, object]]:
    """A run's results without what differs between two runs: folders and readings."""
    found = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("folder", "readings", "stop_detail")} for line in found]


def weights(run: Path) -> dict[str, bytes]:
    """The weights of a run's networks by name."""
    return {path.parent.name: path.read_bytes() for path in run.rglob("model.safetensors")}


def test_train(
    tmp_path: Path, words_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed once a checkpoint is there, then Ctrl-C in the next; the same results and weights as in one go."""

    def command(out: Path) -> list[object]:
        settings = {"cell": "rnn", "hidden": 32, "epochs": 12, "patience": 12, "batch_size": 4}
        return [*call("train", store=words_store, out=out, **settings), "--seed", 0, "--seed", 1]

    code, _, stderr = run(command(tmp_path / "whole"), monkeypatch, capsys)
    assert code == 0, stderr
    out = tmp_path / "killed"
    [networks] = [path.name for path in (tmp_path / "whole").iterdir() if path.is_dir()]
    checkpoint = out / networks / "checkpoint.safetensors"
    code, _ = interrupt(command(out), checkpoint.exists, signal.SIGKILL)
    assert code == -signal.SIGKILL
    before = checkpoint.stat().st_mtime_ns
    code, stderr = interrupt(command(out), lambda: checkpoint.stat().st_mtime_ns > before, signal.SIGINT)
    assert code == 130
    assert stderr.splitlines()[-1].startswith("interrupted: ")
    assert "Traceback" not in stderr
    assert not (out / "results.jsonl").exists()
    code, _, stderr = run(command(out), monkeypatch, capsys)
    assert code == 0, stderr
    assert lines(out) == lines(tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")
    assert not checkpoint.exists()
