"""Killed at any moment, the same command goes on, and ends with the same bytes as if nothing had happened."""

import json
import re
import shlex
import signal
from functools import partial
from pathlib import Path

import pytest

from conftest import make_store, run_cli
from processes import contents, interrupt, run
from read_cache.lock_file import locked
from read_cache.networks.config import ReadConfig
from read_cache.store.manifest import StoreFolder
from read_cache.train.checkpoint import Checkpoint
from read_cache.train.grid import NetworkConfig, TrainConfig, grid
from read_cache.train.results import append_results, read_results
from read_cache.train.run import networks_folder, train_store

SMALL_PARTS = {"part_tokens": 24, "batch_tokens": 24}  # dozens of parts, so that many moments lie between them
HIDDEN = "arrays.zarr/train/encoder/hidden/c"


def done_parts(store: Path) -> list[int]:
    """Parts of the training split that are done: each has a chunk of `done` of its own."""
    return sorted(int(path.name) for path in (store / "arrays.zarr/train/done/c").glob("[0-9]*") if path.suffix == "")


def has_parts(store: Path, parts: int) -> bool:
    """Whether at least so many parts are done."""
    return len(done_parts(store)) >= parts


def times(store: Path, parts: list[int]) -> dict[str, int]:
    """When the given parts were written."""
    names = [f"{HIDDEN}/0/{part}/0" for part in parts]
    return {name: (store / name).stat().st_mtime_ns for name in names}


def test_extract(tmp_path: Path, models: dict[str, Path], rows_folder: Path) -> None:
    """Killed while planning and after 1, 3 and 7 parts; Ctrl-C after 11; finished by the command `train` names."""
    task, rows, store = rows_folder / "words.toml", rows_folder / "words", tmp_path / "killed"
    expected = make_store(tmp_path / "whole", models["tied"], str(task), rows, **SMALL_PARTS)
    assert expected.manifest.splits["train"].parts > 15
    command = ["extract", "--model", models["tied"], "--task", task, "--dataset", rows, "--store", store]
    command += ["--part-tokens", 24, "--batch-tokens", 24]

    code, _ = interrupt(command, (store / "arrays.zarr").exists, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (store / "manifest.json").exists()
    written: dict[str, int] = {}
    for parts, how in ((1, signal.SIGKILL), (3, signal.SIGKILL), (7, signal.SIGKILL), (11, signal.SIGINT)):
        code, stderr = interrupt(command, partial(has_parts, store, parts), how)
        assert has_parts(store, parts)
        assert (store / "plan.json").exists()
        assert not (store / "manifest.json").exists()
        written = times(store, done_parts(store)) | written  # a later time of a part seen before would fail below
        if how is signal.SIGINT:
            assert code == 130
            assert stderr.splitlines()[-1].startswith("interrupted: what was complete is kept")
            assert "Traceback" not in stderr
        else:
            assert code == -signal.SIGKILL

    refused = run_cli("train", "--store", store, "--out", tmp_path / "runs")
    assert refused.returncode == 2
    assert f"error: store {store} is not complete" in refused.stderr
    assert not (tmp_path / "runs").exists()
    named = re.search(r"^  read-cache (extract .*)$", refused.stderr, re.MULTILINE)
    assert named
    assert f"--task {task.name}" in named[1]  # where the task's file lies is not known to the store
    finished = run_cli(*shlex.split(named[1]), cwd=rows_folder)
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"going on: \d+ of \d+ parts are done", finished.stderr)
    assert written == {name: (store / name).stat().st_mtime_ns for name in written}
    assert contents(store) == contents(tmp_path / "whole")


def test_train(tmp_path: Path, words_store: Path) -> None:
    """Killed after an epoch, two networks end bit for bit as they would have."""
    networks = grid([ReadConfig(cell, 8, dropout=0.1) for cell in ("gru", "rnn")], [2e-3], [0])
    run = TrainConfig(epochs=10, patience=10, batch_size=4)
    expected = train_store(StoreFolder(words_store), tmp_path / "whole", networks, run)
    command = ["train", "--store", words_store, "--out", tmp_path / "killed", "--cell", "gru", "--cell", "rnn"]
    command += ["--hidden", 8, "--dropout", 0.1, "--lr", 2e-3, "--epochs", 10, "--patience", 10, "--batch-size", 4]

    place = networks_folder(tmp_path / "killed", StoreFolder(words_store).read_manifest())
    checkpoint = place / "checkpoint.safetensors"
    code, _ = interrupt(command, checkpoint.exists, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert checkpoint.exists()
    assert not [path for path in contents(tmp_path / "killed") if path.endswith(("config.json", "results.jsonl"))]
    finished = run_cli(*command)
    assert finished.returncode == 0, finished.stderr
    assert not checkpoint.exists()
    for network, result, again in zip(networks, expected, read_results(tmp_path / "killed"), strict=True):
        whole, killed = (
            tmp_path / name / place.name / network.name / "model.safetensors" for name in ("whole", "killed")
        )
        assert killed.read_bytes() == whole.read_bytes()
        assert again["history"] == result["history"]


def test_two_runs_do_not_train_the_same_networks_at_once(
    tmp_path: Path, words_store: Path, monkeypatch, capsys
) -> None:
    """The second is told so, and leaves nothing; what a killed run held is free, and its lock is swept up."""
    place = networks_folder(tmp_path / "runs", StoreFolder(words_store).read_manifest())
    command = ["train", "--store", words_store, "--out", tmp_path / "runs", "--cell", "rnn", "--hidden", 4]
    command += ["--epochs", 1]
    place.mkdir(parents=True)
    lock = place / "training.lock"
    with locked(lock, "somebody"):
        code, out, err = run(command, monkeypatch, capsys)
        assert (code, out) == (2, "")
        assert f"error: another run is training in {place} (somebody): wait for it" in err
        assert list(place.iterdir()) == [lock]
    lock.touch()
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert not lock.exists()


def test_a_run_killed_after_its_last_result_leaves_nothing_in_the_way(
    tmp_path: Path, words_store: Path, monkeypatch, capsys
) -> None:
    """Its checkpoint is swept up by the same command, which trains nothing; another grid trains there."""
    out = tmp_path / "runs"
    place = networks_folder(out, StoreFolder(words_store).read_manifest())
    command = ["train", "--store", words_store, "--out", out, "--cell", "rnn", "--hidden", 4, "--epochs", 1]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "remove", lambda self: None)
        assert run(command, patch, capsys)[0] == 0
    checkpoint, results = place / "checkpoint.safetensors", (out / "results.jsonl").read_bytes()
    left = checkpoint.read_bytes()
    code, _, err = run(command, monkeypatch, capsys)
    assert (code, "all of 1 asked for are in" in err, "host memory" in err) == (0, True, False)
    assert not checkpoint.exists()
    assert (out / "results.jsonl").read_bytes() == results
    checkpoint.write_bytes(left)
    code, _, err = run([*command, "--lr", 0.002], monkeypatch, capsys)
    assert code == 0, err
    assert len((out / "results.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.parametrize("left", [1, 30])
def test_results_cut_short(left: int, tmp_path: Path, words_store: Path) -> None:
    """A result whose line a kill cut short is made again, and the line replaced."""
    store, run = StoreFolder(words_store), TrainConfig(epochs=1)
    first, second = (NetworkConfig(ReadConfig("rnn", 4), seed=seed) for seed in (0, 1))
    expected = train_store(store, tmp_path, [first], run) + train_store(store, tmp_path, [second], run)
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-left])
    assert [result["network"] for result in read_results(tmp_path)] == [first.name]
    train_store(store, tmp_path, [first, second], run)
    results = [json.loads(line) for line in path.read_text().splitlines()]
    assert [result["history"] for result in results] == [result["history"] for result in expected]


def test_a_run_goes_on_whose_results_were_written_in_part(words_store, tmp_path, monkeypatch) -> None:
    """A full disk or a kill leaves some networks with results, and all of them in the checkpoint."""
    networks = grid([ReadConfig(cell, 8, dropout=0.1) for cell in ("gru", "rnn")], [2e-3], [0])
    settings = TrainConfig(epochs=2, batch_size=8)
    undisturbed = train_store(StoreFolder(words_store), tmp_path / "whole", networks, settings)

    def in_part(out: Path, results: list) -> None:
        append_results(out, results[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr("read_cache.train.run.append_results", in_part)
    with pytest.raises(KeyboardInterrupt):
        train_store(StoreFolder(words_store), tmp_path / "cut", networks, settings)
    assert [result["network"] for result in read_results(tmp_path / "cut")] == [networks[0].name]
    assert list((tmp_path / "cut").rglob("checkpoint.safetensors"))
    monkeypatch.undo()
    found = train_store(StoreFolder(words_store), tmp_path / "cut", networks, settings)
    assert [result["history"] for result in found] == [result["history"] for result in undisturbed]
    weights = [Path(one["folder"], "model.safetensors").read_bytes() for one in (*undisturbed, *found)]
    assert weights[:2] == weights[2:]
    assert not list((tmp_path / "cut").rglob("checkpoint.safetensors"))
