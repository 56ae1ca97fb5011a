"""One store filled by several processes, and who may fill it when."""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_cache.errors import StoreError, UserError
from read_cache.extraction.fill import next_parts
from read_cache.store.folder import StoreFolder
from read_cache.store.lock import Worker, filling
from read_cache.store.reader import StoreReader
from support.extracting import extract, extract_words, hang_after_two_parts, hang_while_planning
from support.processes import contents, fork
from support.stores import make_store

SMALL_PARTS = {"part_tokens": 60, "batch_tokens": 60}


@pytest.fixture(scope="module")
def expected(tmp_path_factory, models, rows_folder) -> dict[str, bytes]:
    """What one undisturbed extraction leaves."""
    path = tmp_path_factory.mktemp("whole") / "store"
    store = make_store(path, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words", **SMALL_PARTS)
    assert store.manifest.splits["train"].parts > 4
    return contents(path)


@pytest.fixture
def words(models, rows_folder) -> list[object]:
    """Model, task and dataset of the same extraction."""
    return [models["tied"], rows_folder / "words.toml", rows_folder / "words"]


def begin(how: Callable[..., object], store: Path, words: list[object], worker: str) -> BaseProcess:
    """Start a worker in a process of its own."""
    return fork(how, store, words, {"worker": worker, **SMALL_PARTS})


@given(st.integers(1, 9), st.integers(0, 60))
def test_workers_begin_with_different_parts_and_each_ends_with_all(count, parts) -> None:
    whole = [("train", part) for part in range(parts)]
    for number in range(1, count + 1):
        missing, rounds = whole, []
        while missing:
            rounds.append(next_parts(missing, Worker(number, count)))
            missing = sorted({*missing} - {*rounds[-1]})
        if number <= parts:
            assert rounds[0] == whole[number - 1 :: count]
        assert sorted(part for taken in rounds for part in taken) == whole
        assert len(rounds) <= count + 1


@given(st.integers(2, 9), st.integers(0, 30), st.data())
def test_workers_share_the_parts_of_a_slow_one(count, filled, data) -> None:
    """However many the slow one has filled: each other worker takes as many, none twice, the last ones first."""
    slow = data.draw(st.integers(1, count))
    missing = [("train", slow - 1 + place * count) for place in range(filled, filled + 2 * (count - 1))]
    helpers = {*range(1, count + 1)} - {slow}
    taken = [next_parts(missing, Worker(number, count)) for number in helpers]
    assert all(len(parts) == 2 and parts == sorted(parts, reverse=True) for parts in taken)
    assert sorted(part for parts in taken for part in parts) == missing


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/2/3", "a/b", "-1/2", "1/", "²/4", "1/" + "9" * 5000])
def test_what_names_no_worker(text) -> None:
    with pytest.raises(UserError, match="2/4"):
        Worker.parse(text)
    assert Worker.parse("2/4") == Worker(2, 4)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_workers_at_once_leave_the_bytes_of_one(count, words, expected, tmp_path) -> None:
    store = tmp_path / "store"
    workers = [begin(extract_words, store, words, f"{number}/{count}") for number in range(count, 0, -1)]
    for worker in workers:
        worker.join(200)
        assert worker.exitcode == 0
    assert contents(store) == expected


def test_whichever_worker_comes_first_plans_and_those_that_wait_for_it_take_over_if_it_dies(
    words, expected, tmp_path
) -> None:
    """Worker 2 of 3 dies in the middle of its plan, worker 3 waits for it and goes on; worker 1 never comes."""
    store = tmp_path / "store"
    first = begin(hang_while_planning, store, words, "2/3")
    wait_for(lambda: sum(path.is_file() for path in store.glob("arrays.zarr/**/*")) >= 19, first)
    second = begin(extract_words, store, words, "3/3")
    wait_for((store / "worker-3.lock").exists, second)
    assert not StoreFolder(store).planned
    first.kill()
    second.join(200)
    assert second.exitcode == 0
    assert contents(store) == expected


def wait_for(moment: Callable[[], bool], process: BaseProcess) -> None:
    """Wait for something that a process does before it ends."""
    while not moment():
        assert process.is_alive()
        time.sleep(0.01)


@pytest.fixture
def held(words, tmp_path, request) -> Iterator[BaseProcess]:
    """An extraction, as the given worker, that has written two parts and hangs."""
    done = tmp_path / "store/arrays.zarr/train/done/c"
    parts = (0, 1) if request.param == "1/1" else (0, 2)
    process = begin(hang_after_two_parts, tmp_path / "store", words, request.param)
    wait_for(lambda: all((done / str(part)).exists() for part in parts), process)
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize(
    ("held", "refused", "heir"),
    [("1/1", ("1/1", "1/2"), "1/1"), ("1/2", ("1/1", "1/2"), "2/2")],
    indirect=["held"],
    ids=["alone", "a worker"],
)
def test_a_store_has_one_filler_of_each_number_and_a_killed_one_holds_nothing(
    held, refused, heir, words, expected, tmp_path
) -> None:
    """The others are told so; after a kill -9 the next goes on at once, takes up what was left, and seals."""
    store = tmp_path / "store"
    before = contents(store)
    for worker in refused:
        with pytest.raises(StoreError, match=rf"{store} is being filled by another extraction") as told:
            extract(store, *words, worker=worker, **SMALL_PARTS)
        assert contents(store) == before
        assert f"process {held.pid}" in str(told.value) or "workers of 2" in str(told.value)
    held.kill()
    held.join()
    assert list(store.glob("*.lock"))
    assert any(": 2 of " in text for text in extract(store, *words, worker=heir, **SMALL_PARTS))
    assert contents(store) == expected


def test_a_worker_that_comes_after_the_seal_leaves_no_lock(words_store, tmp_path) -> None:
    store = StoreFolder(tmp_path / "store")
    shutil.copytree(words_store, store.path)
    before = contents(tmp_path / "store")
    with filling(store, Worker(3, 4)):
        assert contents(tmp_path / "store") == before  # nothing to hold: nobody writes there again
    manifest = tmp_path / "store/manifest.json"
    manifest.rename(tmp_path / "store/plan.json")
    with filling(store, Worker(3, 4)):
        assert (tmp_path / "store/worker-3.lock").exists()
        (tmp_path / "store/plan.json").rename(manifest)
    assert contents(tmp_path / "store") == before
    assert StoreReader(store).manifest


def test_a_lock_that_was_removed_while_it_was_waited_for_holds_nobody_out(tmp_path, monkeypatch) -> None:
    """Between the open and the lock of the second its holder leaves and removes the file, and a third takes it."""
    store, whole = StoreFolder(tmp_path / "store"), fcntl.flock
    first, third = filling(store, Worker()), filling(store, Worker())
    first.__enter__()

    def flock(file: object, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", whole)
        first.__exit__(None, None, None)
        third.__enter__()
        whole(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match="is being filled by another extraction"), filling(store, Worker()):
        pass
    third.__exit__(None, None, None)
    assert not list(Path(store.path).iterdir())
