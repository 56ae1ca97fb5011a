"""The simulator of large extractions: its arithmetic, and a real run of worker processes."""

import itertools
import math
import os
import statistics
import time
from pathlib import Path

import pytest
from s3fs import S3FileSystem

import read_cache
from read_cache.bench.scale import Job, main, simulate, stored
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.watch import Watch
from support.extracting import extract
from support.faults import faulty
from support.processes import fork
from support.s3 import BUCKET

QUIET = {"failure_hours": 0, "slow": 0, "request_seconds": 0}


def job(**changes: float) -> Job:
    """100 parts of a second each."""
    return Job(**{"tokens": 1e5, "flops_per_token": 1e3, "bytes_per_token": 1.0, "arrays": 2, "part_tokens": 1000,
                  "flops": 1e6, "workers": 1, "start_seconds": 5, **QUIET, **changes})  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 105),
        ({"workers": 4}, 5 + 25),
        ({"workers": 200}, 5 + 1),
        ({"write_rate": 100}, 5 + 1 + 1000),  # writing binds: every part takes 10 s
        ({"workers": 4, "store_rate": 400}, 5 + 1 + 250),
    ],
)
def test_without_failures_it_is_arithmetic(changes, seconds) -> None:
    assert simulate(job(**changes)).seconds == pytest.approx(seconds, abs=0.01)


def test_every_part_is_computed_and_a_failure_loses_two() -> None:
    undisturbed = simulate(job())
    assert (undisturbed.parts, undisturbed.twice) == ([100], 0)
    failed = simulate(job(restart_seconds=60, write_rate=2000), failures={0: 25.3})
    assert failed.failures == 1
    assert failed.parts == [101], "the part that was written; that in computation never ended"
    assert failed.seconds == pytest.approx(25.3 + 60 + 5 + 100 - 19 + 0.5, abs=0.01)


def test_workers_take_what_a_slow_one_leaves() -> None:
    seconds = simulate(job(workers=2, start_seconds=0), part_seconds=[1, 9]).seconds
    assert 90 <= seconds <= 100
    many = simulate(job(workers=20, tokens=1e6), part_seconds=[1] * 19 + [50])
    assert many.parts[:19] == pytest.approx([1000 / 19] * 19, abs=2)
    assert many.twice < 19, "without claims, each computes at most the last parts of others"


def test_requests_grow_with_the_number_of_parts() -> None:
    few, many = (simulate(job(tokens=1e5 * factor)) for factor in (1, 10))
    assert 9 < many.writes / few.writes < 11
    assert 9 < many.reads / few.reads < 11


def test_bytes_are_those_of_a_store(words_store) -> None:
    manifest = StoreReader(words_store).manifest
    axes = {axis for split in manifest.splits.values() for axis in split.chunk}
    tokens = sum(split.tokens for split in manifest.splits.values())
    entries = {axis: sum(s.chunk[axis] * s.parts for s in manifest.splits.values()) / tokens for axis in axes}
    size, arrays = stored(manifest.backbone, manifest.format, entries)
    assert arrays == len(array_bytes(manifest))
    assert size * tokens == pytest.approx(sum(array_bytes(manifest).values()), rel=0.1)  # checksums and indices apart


@pytest.mark.parametrize("case", ["glue", "7b"])
def test_the_command_prints_a_table(case, capsys) -> None:
    main(case, "workers=8", "tokens=1e7")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["8b"],
        ["7b", "worker=8"],
        ["7b", "workers=many"],
        ["7b", "workers=0"],
        ["7b", "workers=inf"],
        ["7b", "dtype"],
    ],
)
def test_wrong_arguments_are_refused(words, capsys) -> None:
    with pytest.raises(SystemExit) as raised:
        main(*words)
    assert raised.value.code == 2
    assert words[-1] in capsys.readouterr().err


def work(store: Path, times: Path, worker: str) -> None:
    """A worker, which notes the time after each part."""
    with times.open("a") as file:
        note = Watch(progress=lambda *_: print(time.time(), file=file, flush=True))
        settings = {"max_examples": 2000, "part_tokens": 1024, "batch_tokens": 1024}
        read_cache.extract("t5-tiny-wiki", "sample-entailment", store, watch=note, worker=worker, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "a worker is killed"])
@pytest.mark.parametrize("count", [2, 3])
def test_a_real_run(count, kill, tmp_path) -> None:
    """Start and speed of each worker are measured, the schedule is simulated; `-s` prints both."""
    begun, store = time.time(), tmp_path / "store"
    files = [tmp_path / f"times-{number}" for number in range(1, count + 1)]
    begin = [(work, store, times, f"{number}/{count}") for number, times in enumerate(files, 1)]
    workers = [fork(*arguments) for arguments in begin]
    failures = {}
    if kill:
        while not (files[-1].exists() and len(files[-1].read_text().splitlines()) > 8):
            time.sleep(0.01)
        workers[-1].kill()
        failures = {count - 1: time.time() - begun}
        workers[-1].join()
        workers[-1] = fork(*begin[-1])
    for worker in workers:
        worker.join(300)
        assert worker.exitcode == 0
    seconds = time.time() - begun
    splits = StoreReader(store).manifest.splits.values()
    parts, tokens = sum(split.parts for split in splits), sum(split.tokens for split in splits)
    starts, speeds = [], []
    for times in files:
        marks = [float(line) for line in times.read_text().splitlines()][: parts // count]
        speeds.append(statistics.median(b - a for a, b in itertools.pairwise(marks)))
        starts.append(marks[0] - begun - speeds[-1])
    told = job(tokens=tokens, part_tokens=math.ceil(tokens / parts), workers=count, write_rate=1e9, restart_seconds=0)
    simulated = simulate(told, speeds, starts, failures).seconds
    print(f"\n{count} workers{', one killed' * kill}, {parts} parts: {seconds:.1f} s, simulated {simulated:.1f} s, "
          f"{simulated / seconds - 1:+.0%}")  # fmt: skip
    assert 0.75 < simulated / seconds < 1.25


@pytest.mark.slow
def test_requests_of_a_part_are_those_of_a_real_store(service, bert, rows_folder, monkeypatch) -> None:
    """Counted before an S3 service; the requests of planning are the same in both stores."""
    words = bert, rows_folder / "words.toml", rows_folder / "words"
    url, requests, parts = os.environ["AWS_ENDPOINT_URL"], [], []
    for part_tokens in (400, 60):
        counted = itertools.count()
        with faulty(url, lambda method, path, counted=counted: next(counted) * 0 or None) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            S3FileSystem.clear_instance_cache()
            extract(f"s3://{BUCKET}/parts-of-{part_tokens}", *words, part_tokens=part_tokens, max_source_length=40)
            requests.append(next(counted))
            splits = StoreReader(f"s3://{BUCKET}/parts-of-{part_tokens}").manifest.splits.values()
            parts.append(sum(split.parts for split in splits))
    S3FileSystem.clear_instance_cache()
    told = [simulate(job(tokens=1000 * count)) for count in parts]
    measured = (requests[1] - requests[0]) / (parts[1] - parts[0])
    simulated = (told[1].reads + told[1].writes - told[0].reads - told[0].writes) / (parts[1] - parts[0])
    print(f"\n{measured:.1f} requests a part, simulated {simulated:.1f}")
    assert measured == pytest.approx(simulated, rel=0.1)
