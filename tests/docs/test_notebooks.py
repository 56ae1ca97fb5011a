"""The notebooks of examples/ run, and show what they print."""

import re
import socket
import tempfile
from pathlib import Path

import pytest

from support.notebooks import NOTEBOOKS, execute, read
from support.pages import ROOT, check_links

each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)
FOLDERS = re.compile(r"(?<![\w./])/(?:home|root|tmp|usr|opt|var|private|Users|mnt)/")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds_of_outputs(notebook) -> list[list[set[str]]]:
    """For each cell, the media types of each output, or its type."""
    return [[set(one.get("data", [one.output_type])) for one in cell.outputs] for cell in code_cells(notebook)]


@each_notebook
def test_outputs_are_kept_from_one_run_of_all_cells(name) -> None:
    cells = code_cells(read(NOTEBOOKS[name]))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert len(outputs) > len(cells) / 2
    assert not [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"]
    assert not [cell for cell in cells if cell.metadata], "times"


@each_notebook
def test_nothing_of_the_machine_is_kept(name) -> None:
    text = NOTEBOOKS[name].read_text(encoding="utf-8")
    text = re.sub(r'"image/png": "[^"]+"', "", text)
    assert not [folder for folder in (str(ROOT), str(Path.home()), tempfile.gettempdir()) if folder in text]
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert not FOLDERS.search(text)


@each_notebook
def test_links_lead_somewhere(name) -> None:
    texts = [cell.source for cell in read(NOTEBOOKS[name]).cells if cell.cell_type == "markdown"]
    check_links(NOTEBOOKS[name], "\n".join(texts))


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_and_has_outputs_of_the_same_kinds(name, tmp_path) -> None:
    assert kinds_of_outputs(execute(NOTEBOOKS[name], tmp_path)) == kinds_of_outputs(read(NOTEBOOKS[name]))
