"""Running code in this process or in one of its own, up to a signal; and what it leaves."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from read_cache.meters.readings import FOLDER as METERS

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
}
PRELOADED = [
    "read_cache.extraction.fill", "read_cache.backbones", "read_cache.meters.meter",
    "transformers.models.t5.modeling_t5", "transformers.models.auto.modeling_auto",
]  # fmt: skip
# A shell that runs the tests in the background has its children ignore Ctrl-C.
PROGRAM = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from read_cache.cli import main
main()"""


def run(
    words: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of `read-cache` in this process; an exception that escapes fails the test."""
    from read_cache.cli.app import main

    monkeypatch.setattr(sys, "argv", ["read-cache", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, *capsys.readouterr()


def run_python(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, to its end; tests' helpers can be imported in it."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT, **environment},
        timeout=300,
        check=False,
    )


def run_cli(
    *arguments: object, cwd: Path | None = None, code: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `read-cache` in a process of its own, after `code`; returns it with stdout and stderr as text."""
    program = f"import sys\n{code}\nfrom read_cache.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT, **environment},
        timeout=300,
        check=False,
    )


def start(arguments: list[object], program: str = PROGRAM) -> subprocess.Popen[str]:
    """Start `read-cache`, or another program, in a process of its own, on one core."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )


def fork(target: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Start a function in a process that has imported what it needs: for tests that start it many times."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def interrupt(arguments: list[object], moment: Callable[[], bool], how: signal.Signals) -> tuple[int, str]:
    """Start `read-cache`, send the signal as soon as `moment` has come; returns the exit code and stderr."""
    process = start(arguments)
    while not moment():
        assert process.poll() is None, "it ended before the moment came"
        time.sleep(0.001)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by name, without stores' readings: these are of the sessions that filled them."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != METERS]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
