"""A disk that fills up while a store is made: one message, nothing lost, and with more room the same call finishes."""

from collections.abc import Iterator

import pytest

from read_cache.errors import StoreError
from read_cache.store.reader import StoreReader, array_bytes
from support.disks import PAGE, Disk, small_disk, taken
from support.extracting import extract
from support.processes import contents


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


def test_extract(disk, words_store, models, rows_folder) -> None:
    """Too small to begin with; full while it is planned, at a part, and at the seal."""
    store, whole = disk.folder / "store", taken(words_store)
    words = store, models["tied"], rows_folder / "words.toml", rows_folder / "words"
    needed = sum(array_bytes(StoreReader(words_store).manifest).values())
    parts = {name: data for name, data in contents(words_store).items() if "/c/0/" in name and "coder/" in name}
    activations = sum(-(-len(data) // PAGE) * PAGE for data in parts.values())
    planned = whole - activations
    kept: dict[str, bytes] = {}  # at the seal a lock and two sessions' readings lie there too, a page each
    for size, says in (
        (needed // 2, "the store needs"),
        (max(needed + 2 * PAGE, planned // 2), f"{store} cannot be written: No space left on device"),
        (planned + activations // 2, "make room and run the same command again"),
        (whole + 3 * PAGE, "manifest.json cannot be written: No space left on device"),
    ):
        disk.resize(size)
        with pytest.raises(StoreError, match=says):
            extract(*words)
        assert not (store / "manifest.json").exists()
        left = contents(store) if (store / "plan.json").exists() else {}
        assert kept.items() <= left.items()
        kept = left
    assert parts.items() <= kept.items()
    disk.resize(2 * whole)
    extract(*words)
    assert contents(store) == contents(words_store)
