"""Running code in this process or in one of its own, up to a signal; and what it leaves."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from read_cache.meters.readings import FOLDER as METERS

STREAMS = {"stdout": 1, "stderr": 2}
TESTS = Path(__file__).parents[1]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
}
PRELOADED = [
    "read_cache.extraction.fill", "read_cache.backbones", "read_cache.meters.meter", "read_cache.training.run",
    "transformers.models.t5.modeling_t5", "transformers.models.auto.modeling_auto",
]  # fmt: skip
"""Seconds of imports. Nothing of read_cache.cli, whose consoles look at the streams when they are made."""
PROGRAM = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from read_cache.cli import main
main()"""
"""`read-cache` as its script has it, with nothing imported before; it ends at Ctrl-C even where a shell ignores it."""


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


def run_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `read-cache` in a process of its own, to its end; returns it with stdout and stderr as text."""
    return Started(arguments).end(300)


class Started:
    """`read-cache`, or another program, in a process of its own that has imported what it needs, on one core."""

    def __init__(self, arguments: Sequence[object], program: Callable[[], object] | None = None) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self.output = Path(tempfile.mkdtemp(prefix="read-cache-output-"))
        self.process = fork(run_program, program, self.arguments, self.output)

    def send(self, how: signal.Signals) -> None:
        """Send a signal."""
        assert self.process.pid
        os.kill(self.process.pid, how)

    def end(self, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it did not end in {seconds} s"
        stdout, stderr = ((self.output / name).read_text() for name in STREAMS)
        shutil.rmtree(self.output)
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, stdout, stderr)


def run_program(program: Callable[[], object] | None, arguments: list[str], output: Path) -> None:
    """Run a program, by default `read-cache`, in this process, with its streams in files."""
    for name, stream in STREAMS.items():
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has children ignore Ctrl-C
    os.environ.update(ENVIRONMENT)
    sys.argv = ["read-cache", *arguments]
    if program is None:
        from read_cache.cli import main as program
    program()


def fork(target: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Start a function in a process that has imported what it needs: for tests that start it many times."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def interrupt(
    arguments: Sequence[object],
    moment: Callable[[], bool],
    how: signal.Signals,
    program: Callable[[], object] | None = None,
) -> tuple[int, str]:
    """Start a program, send the signal as soon as `moment` has come; returns the exit code and stderr."""
    started = Started(arguments, program)
    while not moment():
        assert started.process.exitcode is None, "it ended before the moment came"
        time.sleep(0.001)
    started.send(how)
    ended = started.end()
    return ended.returncode, ended.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by name, without stores' readings: these are of the sessions that filled them."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != METERS]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
