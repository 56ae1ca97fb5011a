"""The wheel has everything, and runs in an environment that has nothing else."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from support.pages import ROOT

EVERYTHING = (
    "read_cache/py.typed", "read_cache/cli/app.py", "read_cache/data/backbone/config.json",
    "read_cache/data/backbone/model.safetensors", "read_cache/data/samples/sample-sentiment/train.jsonl.gz",
    "read_cache/report/paper.toml", "read_cache/report/page.html.j2", "read_cache/training/recipes/paper.toml",
    ".dist-info/licenses/LICENSE", ".dist-info/entry_points.txt",
)  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The source distribution, and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True)
    return folder


def test_the_wheel_has_every_kind_of_file(dist) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for ending in EVERYTHING:
        assert [name for name in names if name.endswith(ending)], ending
    assert not [name for name in names if name.startswith(("tests/", "build/"))]
    sources = {path for folder in ("read_cache", "cli", "data") for path in (ROOT / folder).rglob("*.py")}
    assert len([name for name in names if name.endswith(".py")]) == len(sources)
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "data/backbone/model.safetensors"} <= held


def test_it_runs_in_an_empty_environment(dist, tmp_path) -> None:
    """Installed with its dependencies alone, away from the checkout, without a network afterwards."""
    (wheel,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "empty"], check=True)
    empty = tmp_path / "empty/bin"
    pip = [empty / "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, wheel], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}

    def run(*words: str) -> str:
        done = subprocess.run(
            [empty / words[0], *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("read-cache", "--version").startswith("read-cache ")
    run("read-cache", "extract", "--model", "t5-tiny-wiki", "--task", "sample-sentiment", "--max-examples", "40")
    store = "stores/t5-tiny-wiki/sample-sentiment"
    words = ["--network", "probe", "--epochs", "1", "--out", "runs"]
    run("read-cache", "train", "--store", store, *words)
    run("read-cache", "report", "runs")
    assert (tmp_path / "runs/report").is_dir()
    assert "pytest" not in run("pip", "list")
