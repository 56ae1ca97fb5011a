"""Bits that flip and processes that die: at random, many times."""

import dataclasses
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
from processes import contents, start
from read_cache.errors import StoreError
from read_cache.store.reader import StoreReader
from read_cache.store.residence import resident
from read_cache.store.verify import verify_store
from read_cache.train.batches import SplitBatches, make_collator
from read_cache.train.head import Head

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
        batches = SplitBatches(store.split(name), collator, 8)
        if streamed and batches.split.parts > 2:
            batches = SplitBatches(store.split(name), collator, 8, window=1, memory_bytes=2.5 * batches.part_bytes)
            assert not batches.kept
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
def test_fifty_kills_at_random_moments_leave_the_bytes_of_none(tmp_path, models, rows_folder) -> None:
    """kill -9 while a store is planned, filled, or sealed. Each time the same command goes on, until it is sealed."""
    task, rows, store = rows_folder / "words.toml", rows_folder / "words", tmp_path / "killed"
    begun = time.monotonic()
    make_store(tmp_path / "whole", models["tied"], str(task), rows, **SMALL_PARTS)
    undisturbed = time.monotonic() - begun
    expected = contents(tmp_path / "whole")
    command = ["extract", "--model", models["tied"], "--task", task, "--dataset", rows, "--store", store]
    command += ["--part-tokens", 24, "--batch-tokens", 24]
    draw, killed, sealed = random.Random(0), {"planned": 0, "filled": 0, "sealed": 0}, 0
    while sum(killed.values()) < 50 or store.exists():
        if not fill(command, store, draw.uniform(0, undisturbed / 2) if sum(killed.values()) < 50 else None):
            killed["sealed" if (store / "manifest.json").exists() else
                   "filled" if (store / "plan.json").exists() else "planned"] += 1  # fmt: skip
            continue
        assert contents(store) == expected
        shutil.rmtree(store)
        sealed += 1
    assert min(killed["planned"], killed["filled"], sealed) >= 2, (killed, sealed)


def fill(command: list[object], store: Path, seconds: float | None) -> bool:
    """Run a command, and kill it so many seconds after it took hold of the store; whether it ended by itself."""
    lock, begun = store / "extraction.lock", time.time_ns()
    with start(command) as process:
        while process.poll() is None and not (lock.exists() and lock.stat().st_mtime_ns > begun):
            time.sleep(0.001)
        if seconds is not None and process.poll() is None:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        assert process.stderr is not None
        stderr = process.stderr.read()
        process.wait()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    return process.returncode == 0
