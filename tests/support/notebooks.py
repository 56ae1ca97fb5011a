"""The notebooks of examples/. `python -m support.notebooks`, in tests/, executes them and keeps their outputs."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from support.pages import ROOT

NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "examples").glob("*.ipynb"))}


def read(path: Path) -> nbformat.NotebookNode:
    """Return a notebook as it is on disk."""
    return nbformat.read(path, as_version=4)


def execute(path: Path, folder: str | Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of a new kernel whose working directory is `folder`."""
    notebook = read(path)
    NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version of this interpreter
    return notebook


if __name__ == "__main__":
    for path in NOTEBOOKS.values():
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(path, folder), path)
