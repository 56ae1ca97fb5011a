"""Following a page of the documentation: its fenced blocks, run in order in one folder, and what they print.

Every block of `console`, `sh`, `python` or `toml` is an example; a comment on the line before it, which a reader does
not see, may say otherwise:

    <!-- numbers vary -->         what it prints is compared without its numbers
    <!-- only parsed: reason -->  the script is run, its calls of read-cache are parsed; A=1 in the reason is a variable
    <!-- not run: reason -->      it needs what is not at hand

console   `$ ` begins a command; other lines are what it prints, `…` standing for anything
sh        a script; each `read-cache` in it is run
python    run as it stands, one namespace a page; a `text` block that follows is what it prints
toml      begins with `# NAME.toml`, and is written to that file
"""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from read_cache.cli.app import COMMANDS, build_app, main

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(?:<!-- (?P<note>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
RUN = ("console", "sh", "python", "toml")
BEFORE = {"python": "tour"}
"""Pages that go on where another one ends."""
# Every call of read-cache in a script is written down, to be made in this process afterwards: in a file of its own,
# since calls may run side by side, with a name in the order of the calls.
SHIM = '#!/bin/bash\nprintf "%s\\0" "$@" > "$CALLS/$(date +%s%N).$$"\n'


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment before it says."""

    kind: str
    text: str
    note: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["kind"], match["text"], match["note"] or "") for match in found]


class Reader:
    """Someone who follows pages in one folder, each at most once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, dict[str, Any]] = {}
        """By page, what its Python has defined."""
        (folder / ".bin").mkdir()
        (folder / ".bin" / "read-cache").write_text(SHIM)
        (folder / ".bin" / "read-cache").chmod(0o755)

    def follow(self, name: str) -> dict[str, Any]:
        """Run a page's examples, after those of the page it goes on from; what its Python defines."""
        if name in self.names:
            return self.names[name]
        if name in BEFORE:
            self.follow(BEFORE[name])
        names: dict[str, Any] = {"__name__": "__main__"}
        page = blocks(DOCS / f"{name}.md")
        for block, after in itertools.pairwise([*page, Block("", "", "")]):
            if block.kind not in RUN or block.note.startswith("not run: "):
                continue
            if block.kind == "toml":
                (self.folder / block.text.split()[1]).write_text(block.text)
            elif block.kind == "python":
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    exec(compile(block.text, f"{name}.md", "exec"), names)
                compare(after.text if after.kind == "text" else "", printed.getvalue(), after.note)
            elif block.note.startswith("only parsed: "):
                self._parse(block.text, dict(re.findall(r"(\w+)=(\w+)", block.note)))
            else:
                for command, shown in commands(block):
                    compare(shown, self._shell(command), block.note)
        self.names[name] = names
        return names

    def _shell(self, script: str) -> str:
        """What a script prints, then what each `read-cache` in it does."""
        printed, calls = self._script(script, {})
        # Workers are started together and wait for the first: here one follows the other.
        calls.sort(key=lambda words: words[words.index("--worker") + 1] if "--worker" in words else "")
        return printed + "".join(map(read_cache, calls))

    def _parse(self, script: str, variables: dict[str, str]) -> None:
        """Check that a script is one, and that its calls are commands with options."""
        _, calls = self._script(script, variables)
        assert calls, script
        for name, *options in calls:
            application().commands[name].make_context(name, options)

    def _script(self, script: str, variables: dict[str, str]) -> tuple[str, list[list[str]]]:
        """(what it prints, the arguments of each call of read-cache)."""
        calls = Path(tempfile.mkdtemp(dir=self.folder, prefix=".calls"))
        path = f"{self.folder / '.bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, **variables, "PATH": path, "CALLS": str(calls)},
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stderr}"
        return done.stdout, [call.read_text().split("\0")[:-1] for call in sorted(calls.iterdir())]


def read_cache(words: list[str]) -> str:
    """What a call prints, in this process."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(sys, "argv", ["read-cache", *words])
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(printed))
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == 0, printed.getvalue()
    return printed.getvalue()


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """(command, what the page shows of its output) of a block; a script is one command."""
    if block.kind == "sh":
        yield block.text, ""
        return
    for piece in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        command = re.match(r"(?:.*\\\n)*.*\n", piece)
        assert command
        yield command[0], piece[command.end() :]


def compare(shown: str, printed: str, note: str) -> None:
    """Every line that is shown is among those printed; tables may be wider."""
    found = {plain(line, note) for line in printed.splitlines()}
    for line in filter(str.strip, shown.splitlines()):
        pattern = ".*".join(re.escape(piece.strip()) for piece in plain(line, note).split("…"))
        assert any(re.fullmatch(pattern, one) for one in found), f"{line!r} is not in:\n{printed}"


def plain(line: str, note: str) -> str:
    """A line without what depends on the width of columns, and on the machine where the note says so."""
    line = re.sub(r"([━─ ])\1*", r"\1", line.strip().expandtabs(1))
    return re.sub(r"-?\d[\d.,]*", "#", line) if note == "numbers vary" else line


def application() -> TyperGroup:
    """Every command with its options."""
    found = typer.main.get_command(build_app(COMMANDS))
    assert isinstance(found, TyperGroup)
    return found
