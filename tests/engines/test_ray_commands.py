"""Commands with the engine ray, each with a cluster of its own on this machine."""

import contextlib
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from read_cache.training.results import read_results
from support.extracting import extract
from support.pages import PAGES, blocks
from support.processes import Started, contents
from support.spoil import call
from support.training import weights

pytest.importorskip("ray", reason="ray is not installed: pip install 'read-cache[ray]'")
pytestmark = pytest.mark.slow
SMALL_PARTS = {"part_tokens": 24, "batch_tokens": 24}


def descendants(process: int) -> set[Path]:
    """The processes that a process has started, and those that they have, as folders of /proc."""
    children = {
        path.parent for path in Path("/proc").glob("[0-9]*/status") if f"\nPPid:\t{process}\n" in path.read_text()
    }
    return children.union(*(descendants(int(child.name)) for child in children))


def works(process: Path) -> bool:
    """Return True for a worker, or a server of Ray. Ray's agents end a minute after a driver that was killed."""
    with contextlib.suppress(OSError):
        return any(name in (process / "cmdline").read_text() for name in ("::_Actor", "gcs_server", "raylet/raylet"))
    return False


def wait_for(moment: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_driver_may_die_and_the_same_command_goes_on(models, rows_folder, tmp_path) -> None:
    """Killed after three parts, Ctrl-C after nine more: no worker is left. The third call leaves the bytes of one."""
    words = models["tied"], rows_folder / "words.toml", rows_folder / "words"
    extract(tmp_path / "whole", *words, **SMALL_PARTS)
    store = tmp_path / "store"
    done = store / "arrays.zarr/train/done/c"
    given = dict(zip(("model", "task", "dataset"), words, strict=True))
    command = call("extract", store=store, **given, **SMALL_PARTS, engine="ray", workers=2)
    for parts, how, code in ((3, signal.SIGKILL, -signal.SIGKILL), (12, signal.SIGINT, 130)):
        started = Started(command)
        wait_for(lambda parts=parts: len(list(done.glob("*"))) >= parts, 100)
        processes = descendants(started.process.pid)
        assert len(processes) > 3
        started.send(how)
        ended = started.end()
        assert ended.returncode == code
        assert "Traceback" not in ended.stderr
        wait_for(lambda processes=processes: not any(works(process) for process in processes), 20)
        assert not (store / "manifest.json").exists()
    ended = Started(command).end(200)
    assert ended.returncode == 0, ended.stderr
    assert "continuing: " in ended.stderr
    assert contents(store) == contents(tmp_path / "whole")


def test_ctrl_c_saves_the_state_of_workers(words_store, tmp_path) -> None:
    """The checkpoint is that of the step at which the worker was stopped, and the same command goes on from it."""
    settings = {"network": "read", "hidden": 8, "batch_size": 1, "epochs": 20, "patience": 20}
    command = call("train", store=words_store, out=tmp_path / "ray", **settings, engine="ray")
    started = Started(command)
    wait_for(lambda: list((tmp_path / "ray").rglob("checkpoint.safetensors")), 100)
    sent = time.time_ns()
    started.send(signal.SIGINT)
    ended = started.end(100)
    assert ended.returncode == 130
    (checkpoint,) = (tmp_path / "ray").rglob("checkpoint.safetensors")
    assert checkpoint.stat().st_mtime_ns > sent
    ended = Started(command).end(200)
    assert ended.returncode == 0, ended.stderr
    whole = Started(call("train", store=words_store, out=tmp_path / "whole", **settings)).end(200)
    assert whole.returncode == 0, whole.stderr
    (one,), (other,) = (read_results(tmp_path / name) for name in ("ray", "whole"))
    assert one.history == other.history
    assert all(weights(one)[name].equal(value) for name, value in weights(other).items())


def test_a_users_error_in_a_worker_is_one_line(words_store, tmp_path) -> None:
    ended = Started(call("train", store=words_store, out=tmp_path, memory=1e-6, engine="ray")).end(200)
    assert ended.returncode == 2
    assert "memory" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_the_commands_of_the_page_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = PAGES["docs/gpus-and-clusters"].read_text(encoding="utf-8").replace("\\\n", " ")
    (script,) = [block.text for block in blocks(page) if "--engine ray" in block.text and not block.skipped]
    for line in script.splitlines():
        ended = Started(shlex.split(line)[1:]).end(300)
        assert ended.returncode == 0, ended.stderr
