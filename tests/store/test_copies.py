"""Copies of a remote store's parts: fetched once, never trusted unchecked, and within the disk that is given."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import read_cache
from read_cache.store.copies import cache_folder
from read_cache.store.reader import StoreReader
from read_cache.store.remote import RemoteFiles
from support.stores import make_store

URLS = ("memory://copies/one", "memory://copies/two")
SETTINGS = {"network": "read", "cell": "rnn", "hidden": 4, "epochs": 3, "batch_size": 8, "window": 1, "memory": 0.00013}


@pytest.fixture(scope="module", autouse=True)
def stores(bert, rows_folder) -> None:
    """Two equal stores behind URLs."""
    for url in URLS:
        make_store(url, bert, str(rows_folder / "pairs.toml"), rows_folder / "scores", max_source_length=40)


@pytest.fixture
def fetched(monkeypatch, tmp_path) -> list[str]:
    """The files that are fetched, in turn; copies are in a folder of the test."""
    names, read_into = [], RemoteFiles.read_into

    def note(self: RemoteFiles, name: str, pieces: list[tuple[int, np.ndarray]]) -> Iterator[int]:
        names.append(name)
        return read_into(self, name, pieces)

    monkeypatch.setattr(RemoteFiles, "read_into", note)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return names


def train(url: str, out: Path, **settings: float) -> bytes:
    """Train a network and return its weights."""
    result = read_cache.train(url, out, **SETTINGS | settings).results[0]
    return Path(result.folder, "model.safetensors").read_bytes()


def copied() -> list[Path]:
    """The copies, not the lock files."""
    return [path for path in cache_folder("parts").glob("**/*") if "@" in path.name]


def files_read(url: str) -> set[str]:
    """The files of states and attention weights of a store."""
    return {
        name
        for name in StoreReader(url).folder.files.sizes("arrays.zarr")
        if "/hidden/c/" in name or "_attention/c/" in name
    }


def test_each_part_is_fetched_once(tmp_path, fetched) -> None:
    weights = train(URLS[0], tmp_path / "first")
    assert sorted(fetched) == sorted(files_read(URLS[0])), "not once an epoch"
    assert train(URLS[0], tmp_path / "again") == weights
    assert len(fetched) == len(files_read(URLS[0]))
    assert train(URLS[0], tmp_path / "none", disk=0) == weights
    assert len(fetched) > 2 * len(files_read(URLS[0])), "without copies, once an epoch"


def test_an_opened_store_keeps_no_copies_once_the_limit_is_zero(fetched) -> None:
    folder = StoreReader(URLS[0]).folder
    folder.keep_copies(1e6)
    folder.keep_copies(0)
    assert type(folder.files) is RemoteFiles


@pytest.mark.parametrize("spoil", [lambda data: data[:-9] + bytes(9), lambda data: data[:99]], ids=["flipped", "cut"])
def test_a_damaged_copy_is_fetched_again(tmp_path, fetched, spoil) -> None:
    weights = train(URLS[0], tmp_path / "first")
    for copy in copied():
        copy.write_bytes(spoil(copy.read_bytes()))
    fetched.clear()
    assert train(URLS[0], tmp_path / "again") == weights
    assert sorted(fetched) == sorted(files_read(URLS[0]))


def test_copies_stay_within_the_limit_and_those_of_other_stores_go_first(tmp_path, fetched) -> None:
    weights = train(URLS[0], tmp_path / "all")
    whole = sum(copy.stat().st_size for copy in copied())
    limit = 0.6 * whole / 1e9
    assert train(URLS[1], tmp_path / "other", disk=limit) == weights
    assert len({copy.relative_to(cache_folder("parts")).parts[0] for copy in copied()}) == 1
    kept = [copy for copy in copied() if copy.stat().st_size]
    assert 0.3 * whole < sum(copy.stat().st_size for copy in kept) <= 0.6 * whole
    fetched.clear()
    assert train(URLS[1], tmp_path / "again", disk=limit) == weights
    assert 0 < len(set(fetched)) == len(files_read(URLS[1])) - len(kept), "what was kept is not fetched again"
