"""Bits that flip and processes that die: at random, many times."""

import dataclasses
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conftest import make_store
from processes import contents, fork
from read_cache.errors import StoreError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.scoring.heads import Head
from read_cache.store.reader import StoreReader
from read_cache.store.residence import resident
from read_cache.store.verify import verify_store
from spoil import cut, replace

SPLITS = ("train", "validation", "test")
SMALL_PARTS = {"part_tokens": 24, "batch_tokens": 24}  # dozens of parts, so that many moments lie between them
NOT_TRAINED_ON = ("/done/", "/encoder/rms/")
"""What training never reads: only `verify` can find it changed. `predict` takes the norm from the live state."""


def flip(path: Path, bit: int) -> None:
    """Change one bit in place; again, and it is as it was."""
    file = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(file, 1, bit // 8)[0]
        os.pwrite(file, bytes([byte ^ 1 << bit % 8]), bit // 8)
    finally:
        os.close(file)


def tensors(record: object) -> Iterator[torch.Tensor]:
    """Every tensor of a batch."""
    if isinstance(record, torch.Tensor):
        yield record
    elif dataclasses.is_dataclass(record):
        for field in dataclasses.fields(record):
            yield from tensors(getattr(record, field.name))


def trained_on(path: Path, streamed: bool) -> Iterator[list[torch.Tensor]]:
    """The head and every batch of an epoch over every split, read as training reads them."""
    store = StoreReader(path)
    yield [Head.of(store).weight]
    collator = make_collator(store)
    for name in SPLITS:
        batches = SplitBatches(store.split(name), collator, 8, window=1, tier="streamed" if streamed else "memory")
        for batch in batches.epoch(seed=0, epoch=0):
            yield list(tensors(batch))


def test_a_file_is_checked_again_when_it_changed_or_left_memory(tmp_path, models, rows_folder) -> None:
    store, name = tmp_path / "store", "encoder/hidden"
    make_store(store, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")
    split = StoreReader(store).split("train")
    file = split.manifest.shard_file(split.specs[name], "train", 0)
    path = store / file
    for _ in range(2):  # read from a disk the first time, from memory the second
        split.read_array(name, 0)
    before = path.stat()

    flip(path, 8)
    with pytest.raises(StoreError, match="layer 0's checksum"):
        split.read_array(name, 0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    split.read_array(name, 0)  # the one lie that is believed: changed in memory, and the time set back

    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(split.folder.files.map(file)):
        pytest.skip("this file system keeps its pages in memory")
    with pytest.raises(StoreError, match="layer 0's checksum"):
        split.read_array(name, 0)


@pytest.mark.parametrize("name", ["train/encoder/hidden/c/0/1/0", "train/done/c/1"], ids=["file", "mark"])
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
    for name in ("extraction.lock", "worker-1.lock", "arrays.zarr/train/done/c/0.unfinished"):
        (store / name).write_bytes(b"")
    make_store(store, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")
    assert contents(store) == contents(words_store)


def test_a_manifest_that_was_changed_or_is_of_another_store_is_refused(tmp_path, words_store) -> None:
    store = tmp_path / "store"
    shutil.copytree(words_store, store)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["task"]["labels"].reverse()
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="is not that of the arrays beside it"):
        StoreReader(store)


def test_plan_arrays_that_are_whole_but_not_those_planned_are_found(tmp_path, models, rows_folder) -> None:
    """A file of the same rows in another order: its checksum is right."""
    task, rows = str(rows_folder / "words.toml"), rows_folder / "words"
    for seed in (0, 1):
        make_store(tmp_path / f"{seed}", models["tied"], task, rows, seed=seed, max_examples=8)
    label = "arrays.zarr/train/label/c/0"
    shutil.copy(tmp_path / "1" / label, tmp_path / "0" / label)
    found = list(verify_store(StoreReader(tmp_path / "0")))
    assert found == ["plan arrays: chunks are intact but are not those that were planned"]


@pytest.mark.parametrize("flips", [16, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_every_flipped_bit_is_found(dtype, flips, tmp_path, models, rows_folder) -> None:
    """By verify, and by training before a batch with it is used: the batches before the error are the true ones."""
    path = tmp_path / "store"
    make_store(path, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words", dtype=dtype)
    whole = contents(path)
    chunks = sorted(name for name in whole if "/c/" in name)
    true = {streamed: list(trained_on(path, streamed)) for streamed in (False, True)}
    draw = random.Random(flips)
    for number in range(flips):
        name, streamed = draw.choice(chunks), number % 2 == 1
        bit = draw.randrange(8 * len(whole[name]))
        flip(path / name, bit)
        array = name.removeprefix("arrays.zarr/").partition("/c/")[0]
        findings = list(verify_store(StoreReader(path)))
        assert any(array in finding for finding in findings), (name, bit, findings)
        seen, found = [], None
        try:
            for batch in trained_on(path, streamed):
                seen.append(batch)
        except StoreError as error:
            found = str(error)
        if any(part in name for part in NOT_TRAINED_ON):
            assert found is None
        else:
            assert array in (found or ""), (name, bit, found)
        for batch, expected in zip(seen, true[streamed], strict=False):
            assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True)), (name, bit)
        flip(path / name, bit)
    assert contents(path) == whole


@pytest.mark.slow
def test_fifty_kills_at_random_moments_leave_the_bytes_of_none(tmp_path, models, rows_folder, monkeypatch) -> None:
    """kill -9 while a store is planned, filled, or sealed. Each time the same command goes on, until it is sealed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    task, rows, store = rows_folder / "words.toml", rows_folder / "words", tmp_path / "killed"
    command = ["extract", "--model", models["tied"], "--task", task, "--dataset", rows]
    command += ["--part-tokens", 24, "--batch-tokens", 24]
    for whole in (tmp_path / "first", tmp_path / "second"):  # the first waits for imports
        begun = time.monotonic()
        assert fill([*command, "--store", whole], whole)
        undisturbed = time.monotonic() - begun
    expected = contents(tmp_path / "first")
    assert contents(tmp_path / "second") == expected
    draw, killed, sealed = random.Random(0), {"planned": 0, "filled": 0, "sealed": 0}, 0
    while sum(killed.values()) < 50 or store.exists():
        moment = draw.uniform(0, undisturbed / 2) if sum(killed.values()) < 50 else None
        if not fill([*command, "--store", store], store, moment):
            killed["sealed" if (store / "manifest.json").exists() else
                   "filled" if (store / "arrays.zarr/zarr.json").exists() else "planned"] += 1  # fmt: skip
            continue
        assert contents(store) == expected
        shutil.rmtree(store)
        sealed += 1
    assert min(killed["planned"], killed["filled"], sealed) >= 2, (killed, sealed)


def fill(command: list[object], store: Path, seconds: float | None = None) -> bool:
    """Run a command, and kill it so many seconds after it took hold of the store; whether it ended by itself."""
    lock, begun = store / "extraction.lock", time.time_ns()
    process = fork(command)
    while process.is_alive() and not (lock.exists() and lock.stat().st_mtime_ns > begun):
        time.sleep(0.001)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0
