"""Extractions that die, and what they leave: the same call goes on, to the bytes of an undisturbed one."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import zarr

from read_cache.errors import StoreError
from read_cache.store.files import LocalFiles
from read_cache.store.folder import StoreFolder, find_stores
from read_cache.store.reader import StoreReader
from read_cache.store.writer import StoreWriter
from support.extracting import extract, extract_words
from support.processes import contents, fork
from support.spoil import cut, replace
from support.stores import make_store

SMALL_PARTS = {"part_tokens": 24, "batch_tokens": 24}  # dozens of parts, so that many moments lie between them


@pytest.mark.parametrize("name", ["train/encoder/hidden/c/0/1/0", "train/done/c/1/0"], ids=["file", "mark"])
@pytest.mark.parametrize("spoil", [None, cut], ids=["missing", "cut"])
def test_a_part_that_lost_something_before_the_seal_is_written_again(
    name, spoil, tmp_path, models, rows_folder, words_store
) -> None:
    store = tmp_path / "store"
    shutil.copytree(words_store, store)
    (store / "manifest.json").rename(store / "plan.json")
    path = store / "arrays.zarr" / name
    replace(path.parent, path.name, spoil(path.read_bytes()) if spoil else None)
    kept = store / "arrays.zarr/train/encoder/hidden/c/0/0/0"
    before = kept.stat().st_mtime_ns
    make_store(store, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")
    assert contents(store) == contents(words_store)
    assert kept.stat().st_mtime_ns == before


def test_what_a_kill_after_the_seal_left_is_swept_up(tmp_path, models, rows_folder, words_store) -> None:
    store = tmp_path / "store"
    shutil.copytree(words_store, store)
    shutil.copy(store / "manifest.json", store / "plan.json")
    for name in ("extraction.lock", "worker-1.lock", f"arrays.zarr/train/done/c/0/0.{'f' * 32}.unfinished"):
        (store / name).write_bytes(b"")
    make_store(store, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")
    assert contents(store) == contents(words_store)


def test_a_store_is_filled_without_zarrs_writes(tmp_path, models, rows_folder, words_store, monkeypatch) -> None:
    """They leave files with names of their own behind if the process is killed."""
    monkeypatch.setattr(zarr.storage.LocalStore, "set", None)
    make_store(tmp_path / "store", models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")
    assert contents(tmp_path / "store") == contents(words_store)


def test_an_unfinished_store_is_found_and_not_opened(words_store, tmp_path) -> None:
    store = tmp_path / "store"
    shutil.copytree(words_store, store)
    (store / "manifest.json").rename(store / "plan.json")
    assert [found.path for found in find_stores(tmp_path)[1]] == [str(store)]
    with pytest.raises(StoreError, match=rf"store {store} is not complete"):
        StoreReader(store)
    assert not find_stores(words_store)[1]


def test_a_store_without_all_its_parts_cannot_be_sealed(words_store, tmp_path) -> None:
    store = tmp_path / "store"
    shutil.copytree(words_store, store)
    (store / "manifest.json").rename(store / "plan.json")
    (store / "arrays.zarr/train/encoder/hidden/c/0/1/0").unlink()
    folder = StoreFolder(store)
    plan = folder.read_plan()
    assert plan is not None
    with pytest.raises(StoreError, match=r"lacks 1 parts, the first is part 1 of train"):
        StoreWriter(folder, plan).seal()
    assert not folder.sealed


@pytest.mark.parametrize("make", ["a file", "a folder of other things", "arrays alone"])
def test_what_is_no_store_is_left_alone(make, words_store, models, rows_folder, tmp_path) -> None:
    store = tmp_path / "store"
    if make == "a file":
        store.write_text("notes")
    elif make == "arrays alone":
        shutil.copytree(words_store, store)
        (store / "manifest.json").unlink()
    else:
        store.mkdir()
        (store / "notes.txt").write_text("notes")
    before = store.read_bytes() if store.is_file() else contents(store)
    words = rows_folder / "words.toml", rows_folder / "words"
    with pytest.raises(StoreError, match=str(store)):
        extract(store, models["tied"], *words)
    assert (store.read_bytes() if store.is_file() else contents(store)) == before


def test_a_file_that_goes_while_files_are_listed_is_left_out(tmp_path) -> None:
    (tmp_path / "kept").write_bytes(b"12")
    (tmp_path / "renamed").symlink_to("nothing")
    assert LocalFiles(tmp_path).sizes(".") == {"kept": 2}


@pytest.mark.slow
def test_fifty_kills_at_random_moments_leave_the_bytes_of_none(tmp_path, models, rows_folder, monkeypatch) -> None:
    """kill -9 while a store is planned, filled, or sealed. Each time the same call goes on, until it is sealed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words, store = (models["tied"], rows_folder / "words.toml", rows_folder / "words"), tmp_path / "killed"
    for whole in (tmp_path / "first", tmp_path / "second"):  # the first waits for imports
        begun = time.monotonic()
        assert fill(words, whole)
        undisturbed = time.monotonic() - begun
    expected = contents(tmp_path / "first")
    assert contents(tmp_path / "second") == expected
    draw, killed, sealed = random.Random(0), {"planned": 0, "filled": 0, "sealed": 0}, 0
    while sum(killed.values()) < 50 or store.exists():
        moment = draw.random() ** 2 * undisturbed / 2 if sum(killed.values()) < 50 else None
        if not fill(words, store, moment):
            killed["sealed" if (store / "manifest.json").exists() else
                   "filled" if (store / "arrays.zarr/zarr.json").exists() else "planned"] += 1  # fmt: skip
            continue
        assert contents(store) == expected
        shutil.rmtree(store)
        sealed += 1
    assert min(killed["planned"], killed["filled"], sealed) >= 2, (killed, sealed)


def fill(words: tuple[Path, ...], store: Path, seconds: float | None = None) -> bool:
    """Extract, and kill it so many seconds after it took hold of the store; whether it ended by itself."""
    lock, begun = store / "extraction.lock", time.time_ns()
    process = fork(extract_words, store, words, SMALL_PARTS)
    while process.is_alive() and not (lock.exists() and lock.stat().st_mtime_ns > begun):
        time.sleep(0.001)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0
