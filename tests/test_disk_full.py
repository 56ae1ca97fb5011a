"""A disk that fills up: one message, nothing lost, and after more room is made the same command finishes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import contents, run
from read_cache.errors import UserError
from read_cache.networks.config import ReadConfig
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.train.grid import NetworkConfig, TrainConfig
from read_cache.train.results import append_results, read_results
from read_cache.train.run import train_store

PAGE = 4096


class Disk:
    """A file system of so many bytes; skips the test where mounting is not permitted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, size: int, how: str = "remount,") -> None:
        """Make it larger or smaller; what it holds stays."""
        words = ["mount", "-t", "tmpfs", "-o", f"{how}size={-(-size // PAGE) * PAGE}", "tmpfs", str(self.folder)]
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no small disk to fill: {' '.join(words)} is not permitted ({error})")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = Disk(folder)
    made.resize(PAGE, "")
    yield made
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a checkpoint that was loaded may still be mapped


def taken(folder: Path) -> int:
    """Bytes that files take on such a disk, which gives out whole pages."""
    return sum(-(-len(data) // PAGE) * PAGE for data in contents(folder).values())


def one_error(err: str) -> str:
    """The only error message."""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in err
    return errors[0]


def test_extract(disk, words_store, models, rows_folder, monkeypatch, capsys) -> None:
    """Too small to begin with; full while it is planned, at a part, and at the seal."""
    store, whole = disk.folder / "store", taken(words_store)
    command = ["extract", "--model", models["tied"], "--task", rows_folder / "words.toml"]
    command += ["--dataset", rows_folder / "words", "--store", store, "--part-tokens", 200, "--batch-tokens", 120]
    needed = sum(array_bytes(StoreReader(words_store).manifest).values())
    parts = {name: data for name, data in contents(words_store).items() if "/c/0/" in name and "coder/" in name}
    activations = sum(-(-len(data) // PAGE) * PAGE for data in parts.values())
    planned = whole - activations
    kept: dict[str, bytes] = {}  # at the seal a lock and two sessions' readings lie there too, a page each
    for size, says in (
        (needed // 2, "the store needs"),
        (max(needed + 2 * PAGE, planned // 2), f"{store} cannot be written: No space left on device"),
        (planned + activations // 2, "make room and run the same command again"),
        (whole + 3 * PAGE, "manifest.json cannot be written: No space left on device. Every part is there"),
    ):
        disk.resize(size)
        code, out, err = run(command, monkeypatch, capsys)
        assert (code, out) == (2, ""), err
        assert says in one_error(err)
        assert not (store / "manifest.json").exists()
        left = contents(store) if (store / "plan.json").exists() else {}
        assert kept.items() <= left.items()
        kept = left
    assert parts.items() <= kept.items()
    disk.resize(2 * whole)
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert contents(store) == contents(words_store)


def test_train(disk, words_store, tmp_path, monkeypatch, capsys) -> None:
    """Full at the checkpoint and at a network's folder; the weights are an undisturbed run's."""
    network, training = NetworkConfig(ReadConfig("rnn", 4)), TrainConfig(epochs=2)
    result = train_store(StoreFolder(words_store), tmp_path / "whole", [network], training)[0]
    command = ["train", "--store", words_store, "--out", disk.folder, "--cell", "rnn", "--hidden", 4, "--epochs", 2]
    told, size, code = [], PAGE, 2
    while code:
        size += PAGE
        disk.resize(size)
        code, _, err = run(command, monkeypatch, capsys)
        if code:
            assert code == 2
            told.append(one_error(err))
            assert "What was complete is kept: make room and run the same command again" in told[-1]
            assert not list(disk.folder.rglob("*.unfinished")), "half a file takes up room that is short"
    assert "checkpoint.safetensors cannot be written" in told[0]
    assert any(f"{network.name} cannot be written: " in message for message in told)
    weights = [Path(folder, "model.safetensors") for folder in disk.folder.glob(f"*/{network.name}")]
    assert [path.read_bytes() for path in weights] == [Path(result["folder"], "model.safetensors").read_bytes()]


def test_results(disk) -> None:
    """A line cut short by the full disk is replaced once there is room."""
    path = disk.folder / "results.jsonl"
    results = [{"network": "rnn", "store_digest": "", "run": {}, "history": list(range(size))} for size in (9, PAGE)]
    append_results(disk.folder, results[:1])
    with pytest.raises(UserError, match=r"results.jsonl cannot be written: No space left on device"):
        append_results(disk.folder, results[1:])
    assert path.stat().st_size > len(json.dumps(results[0])) + 1
    assert read_results(disk.folder) == results[:1]
    disk.resize(100 * PAGE)
    append_results(disk.folder, results[1:])
    assert read_results(disk.folder) == results
