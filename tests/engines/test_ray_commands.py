"""Commands with the engine ray, each with a cluster of its own on this machine."""

import shlex
import signal
import time
from pathlib import Path

import pytest

from support.extracting import extract
from support.pages import PAGES, blocks
from support.processes import Started, contents, interrupt
from support.spoil import call

pytest.importorskip("ray", reason="ray is not installed: pip install 'read-cache[ray]'")
pytestmark = pytest.mark.slow
SMALL_PARTS = {"part_tokens": 24, "batch_tokens": 24}


def servers() -> set[str]:
    """Process numbers of the head nodes on this machine."""
    return {path.parent.name for path in Path("/proc").glob("[0-9]*/comm") if named(path) == "gcs_server"}


def named(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # it has just ended
        return ""


def test_the_driver_may_die_and_the_same_command_goes_on(models, rows_folder, tmp_path) -> None:
    """Killed after three parts, Ctrl-C after nine more: no process is left. The third call leaves the bytes of one."""
    words = models["tied"], rows_folder / "words.toml", rows_folder / "words"
    extract(tmp_path / "whole", *words, **SMALL_PARTS)
    store, before = tmp_path / "store", servers()
    done = store / "arrays.zarr/train/done/c"
    given = dict(zip(("model", "task", "dataset"), words, strict=True))
    command = call("extract", store=store, **given, **SMALL_PARTS, engine="ray", workers=2)
    for parts, how, expected in ((3, signal.SIGKILL, -signal.SIGKILL), (12, signal.SIGINT, 130)):
        code, stderr = interrupt(command, lambda parts=parts: len(list(done.glob("*"))) >= parts, how)
        assert code == expected
        assert "Traceback" not in stderr
        wait = time.monotonic() + 20
        while servers() - before:
            assert time.monotonic() < wait
            time.sleep(0.1)
        assert not (store / "manifest.json").exists()
    ended = Started(command).end(200)
    assert ended.returncode == 0, ended.stderr
    assert "continuing: " in ended.stderr
    assert contents(store) == contents(tmp_path / "whole")


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
