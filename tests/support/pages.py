"""Following a page of the documentation: its fenced blocks, run in order in a folder of the page, and what they print.

Every block of `console`, `sh`, `python` or `toml` is an example; a comment on the line before it, which a reader does
not see, may say otherwise:

    <!-- numbers vary -->         the output is compared without its numbers
    <!-- only parsed: reason -->  the script is run, its calls of read-cache are parsed; A=1 in the reason is a variable
    <!-- not run: reason -->      it needs what is not at hand

console   `$ ` begins a command; other lines are its output, `…` standing for anything
sh        a script; each `read-cache` in it is run
python    run as it stands, one namespace a page; a `text` block that follows is its output
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from read_cache.cli.app import COMMANDS, build_app, main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {page.relative_to(ROOT).with_suffix("").as_posix(): page for page in [ROOT / "README.md", *DOCS.glob("*.md")]}
"""By name, such as docs/tour."""
BLOCK = re.compile(r"(?:<!-- (?P<note>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
RUN = ("console", "sh", "python", "toml")
# Every call of read-cache in a script is written down, to be made in this process afterwards: in a file of its own,
# since calls may run side by side, with a name in the order of the calls.
SHIM = '#!/bin/bash\nprintf "%s\\0" "$@" > "$CALLS/$(date +%s%N).$$"\n'
Prepare = Callable[[], dict[str, Any]]
"""Puts what a page takes for granted into the working directory; returns names that its Python may use."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment before it says."""

    kind: str
    text: str
    note: str = ""

    @property
    def skipped(self) -> bool:
        """Return True if the block is no example, or cannot be run here."""
        return self.kind not in RUN or self.note.startswith("not run: ")


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page's text."""
    return [Block(match["kind"], match["text"], match["note"] or "") for match in BLOCK.finditer(text)]


class Reader:
    """Someone who follows pages, each at most once, each in a folder of its own."""

    def __init__(self, folder: Path, prepare: dict[str, Prepare]) -> None:
        """`prepare`: what to do before a page, by its name."""
        self.folder, self.prepare = folder, prepare
        self.names: dict[str, dict[str, Any]] = {}
        """By page, what its Python has defined."""
        (folder / "read-cache").write_text(SHIM)
        (folder / "read-cache").chmod(0o755)

    def follow(self, name: str) -> dict[str, Any]:
        """Run a page's examples in `folder / "pages" / name`; return what its Python defines."""
        if name in self.names:
            return self.names[name]
        place = self.folder / "pages" / name
        place.mkdir(parents=True)
        with contextlib.chdir(place):
            names: dict[str, Any] = {"__name__": "__main__", **self.prepare.get(name, dict)()}
            page = blocks(PAGES[name].read_text(encoding="utf-8"))
            for block, after in itertools.pairwise([*page, Block("", "")]):
                if not block.skipped:
                    self._run(name, block, after, names)
        self.names[name] = names
        return names

    def _run(self, page: str, block: Block, after: Block, names: dict[str, Any]) -> None:
        if block.kind == "toml":
            Path(block.text.split()[1]).write_text(block.text)
        elif block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block.text, f"{page}.md", "exec"), names)
            compare(after.text if after.kind == "text" else "", printed.getvalue(), after.note)
        elif block.note.startswith("only parsed: "):
            _, calls = self._script(block.text, dict(re.findall(r"(\w+)=(\w+)", block.note)))
            assert calls, block.text
            for words in calls:
                parse(words)
        else:
            for command, shown in commands(block):
                printed_by_script, calls = self._script(command, {})
                # Workers are started together and wait for the first: here one follows the other.
                calls.sort(key=lambda words: [word for word in words if word.startswith("worker=")])
                compare(shown, printed_by_script + "".join(map(read_cache, calls)), block.note)

    def _script(self, script: str, variables: dict[str, str]) -> tuple[str, list[list[str]]]:
        """(what it prints, the arguments of each call of read-cache)."""
        calls = Path(tempfile.mkdtemp(dir=self.folder, prefix="calls"))
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
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
    assert stopped.value.code == 0, f"read-cache {' '.join(words)}\n{printed.getvalue()}"
    return printed.getvalue()


def parse(words: list[str]) -> None:
    """Check that a call is a command with its options and arguments."""
    application().commands[words[0]].make_context(words[0], words[1:])


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Yield (command, what the page shows of its output) of a block; a script is one command."""
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


def check_links(page: Path, text: str) -> None:
    """Check that each relative link of a page's text leads to a file, and its anchor to a heading."""
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """What a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def application() -> TyperGroup:
    """Every command with its options."""
    found = typer.main.get_command(build_app(COMMANDS))
    assert isinstance(found, TyperGroup)
    return found
