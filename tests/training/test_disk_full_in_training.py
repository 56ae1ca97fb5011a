"""A disk that fills up while networks train: one message, nothing lost, and with more room the same call finishes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.training.results import append_results, read_results
from support.disks import PAGE, Disk, small_disk
from support.training import network, train_store


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


def test_train(disk, words_store, tmp_path) -> None:
    """Full at the checkpoint and at a network's folder; the weights are an undisturbed run's."""
    chosen, run = network("read", cell="rnn", hidden=4), RunConfig(epochs=2)
    whole = train_store(words_store, tmp_path / "whole", [chosen], run)[0]
    told: list[str] = []
    size, found = PAGE, None
    while found is None:
        size += PAGE
        disk.resize(size)
        try:
            found = train_store(words_store, disk.folder, [chosen], run)[0]
        except UserError as error:
            told.append(str(error))
            assert "\n" not in told[-1]
            assert "No space left on device" in told[-1] or "cannot be written" in told[-1]
            assert not list(disk.folder.rglob("*.unfinished")), "half a file takes up room that is short"
    assert "checkpoint.safetensors cannot be written" in told[0]
    assert any(f"{chosen.name} cannot be written: " in message for message in told)
    assert found.history == whole.history
    weights = [Path(result.folder, "model.safetensors").read_bytes() for result in (found, whole)]
    assert weights[0] == weights[1]


def test_results(disk, words_store, tmp_path) -> None:
    """A line cut short by the full disk is replaced once there is room."""
    path = disk.folder / "results.jsonl"
    short = train_store(words_store, tmp_path / "run", [network("probe")], RunConfig(epochs=1))[0]
    long = short.replaced(history=short.history * 100)
    append_results(disk.folder, [short])
    kept = path.stat().st_size
    with pytest.raises(UserError, match=r"results.jsonl cannot be written: No space left on device"):
        append_results(disk.folder, [long])
    assert path.stat().st_size > kept
    assert read_results(disk.folder) == [short]
    disk.resize(100 * PAGE)
    append_results(disk.folder, [long])
    assert read_results(disk.folder) == [short, long]
