"""One store filled by several processes, and who may fill it when."""

import fcntl
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_store
from processes import PROGRAM, contents, run, start
from read_cache.errors import StoreError
from read_cache.extract.extraction import own_parts_first
from read_cache.store.lock import Worker, filling
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader

SMALL_PARTS = {"part_tokens": 60, "batch_tokens": 60}
HANGS = f"""import time
from read_cache.store.writer import StoreWriter
whole, written = StoreWriter.write_part, []
def write_part(self, buffer):
    while len(written) == 2:
        time.sleep(1)
    written.append(whole(self, buffer))
StoreWriter.write_part = write_part
{PROGRAM}"""
"""`read-cache` that writes two parts and then no more, and holds on to the store."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory, models, rows_folder) -> dict[str, bytes]:
    """What one undisturbed extraction leaves."""
    path = tmp_path_factory.mktemp("whole") / "store"
    store = make_store(path, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words", **SMALL_PARTS)
    assert store.manifest.splits["train"].parts > 4
    return contents(path)


@pytest.fixture
def command(models, rows_folder, tmp_path) -> list[object]:
    """The same extraction by command, into `store` of the test's folder."""
    words = ["extract", "--model", models["tied"], "--task", rows_folder / "words.toml"]
    words += ["--dataset", rows_folder / "words", "--store", tmp_path / "store"]
    return [*words, "--part-tokens", 60, "--batch-tokens", 60]


@given(st.integers(1, 9), st.integers(0, 60))
def test_workers_begin_with_different_parts_and_end_with_all(count, parts) -> None:
    missing = [("train", part) for part in range(parts)]
    orders = [own_parts_first(missing, Worker(number, count)) for number in range(1, count + 1)]
    assert all(sorted(order) == missing for order in orders)
    own = [part for order in orders for part in order[: parts // count]]
    assert len(set(own)) == len(own)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_workers_at_once_leave_the_bytes_of_one(count, command, expected, tmp_path) -> None:
    workers = [start([*command, "--worker", f"{number}/{count}"]) for number in range(count, 0, -1)]
    for worker in workers:
        _, stderr = worker.communicate(timeout=200)
        assert worker.returncode == 0, stderr
    assert contents(tmp_path / "store") == expected


def test_whichever_worker_comes_first_plans_and_those_that_wait_for_it_take_over_if_it_dies(
    command, expected, tmp_path
) -> None:
    """Worker 2 of 3 dies in the middle of its plan, worker 3 waits for it and goes on; worker 1 never comes."""
    store = tmp_path / "store"
    hangs = PROGRAM.replace(
        "from read_cache.cli import main",
        """import time
from read_cache.store.files import LocalFiles
from read_cache.cli import main
whole, settled = LocalFiles.settle, []
def settle(self, name, data):
    while len(settled) == 20:
        time.sleep(1)
    settled.append(name)
    return whole(self, name, data)
LocalFiles.settle = settle""",
    )
    with start([*command, "--worker", "2/3"], hangs) as first:
        while sum(path.is_file() for path in store.glob("arrays.zarr/**/*")) < 19:
            assert first.poll() is None, first.communicate()
            time.sleep(0.01)
        with start([*command, "--worker", "3/3"]) as second:
            while not (store / "worker-3.lock").exists():
                assert second.poll() is None, second.communicate()
                time.sleep(0.01)
            assert not StoreFolder(store).planned
            first.kill()
            _, stderr = second.communicate(timeout=200)
            assert second.returncode == 0, stderr
    assert contents(store) == expected


@pytest.fixture
def held(command, tmp_path, request) -> Iterator[subprocess.Popen]:
    """An extraction, as the given worker, that has written two parts and hangs."""
    done = tmp_path / "store/arrays.zarr/train/done/c"
    parts = (0, 1) if request.param == "1/1" else (0, 2)
    with start([*command, "--worker", request.param], HANGS) as process:
        while not all((done / str(part)).exists() for part in parts):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("held", "refused", "heir"),
    [("1/1", ("1/1", "1/2"), "1/1"), ("1/2", ("1/1", "1/2"), "2/2")],
    indirect=["held"],
    ids=["alone", "a worker"],
)
def test_a_store_has_one_filler_of_each_number_and_a_killed_one_holds_nothing(
    held, refused, heir, command, expected, tmp_path, monkeypatch, capsys
) -> None:
    """The others are told so; after a kill -9 the next goes on at once, takes up what was left, and seals."""
    store = tmp_path / "store"
    before = contents(store)
    for worker in refused:
        code, out, err = run([*command, "--worker", worker], monkeypatch, capsys)
        assert (code, out) == (2, "")
        assert f"error: {store} is being filled by another extraction (" in err
        assert "--worker 1/2, --worker 2/2" in err
        assert contents(store) == before
    held.send_signal(signal.SIGKILL)
    held.wait()
    assert (store / "extraction.lock").exists()
    code, _, err = run([*command, "--worker", heir], monkeypatch, capsys)
    assert code == 0, err
    assert "going on: 2 of" in err
    assert contents(store) == expected


def test_a_worker_that_comes_after_the_seal_leaves_no_lock(command, words_store, tmp_path) -> None:
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
    assert not Path(store.path).exists()
