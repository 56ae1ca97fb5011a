"""`make docs`: the site has every page, and a link that leads nowhere fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import DOCS, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path) -> Path:
    """A copy of the documentation, beside links to all else."""
    pytest.importorskip("mkdocs")  # of the extra [docs], which `make test-slow` installs
    for entry in ROOT.iterdir():
        if entry.name != "docs":
            (tmp_path / entry.name).symlink_to(entry)
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "mkdocs.yml").unlink()
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    return tmp_path


def build(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", "site"],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_site_has_every_page_notebook_and_docstring_and_fetches_nothing(root) -> None:
    done = build(root)
    assert done.returncode == 0, done.stderr
    site = root / "site"
    pages = {page.stem for page in DOCS.glob("*.md")} - {"README"} | {"examples/quickstart", "examples/own_model"}
    assert not [page for page in pages if not (site / page / "index.html").exists()]
    assert (site / "read_cache/networks/read.py").exists(), "a file that a page links to"
    api = (site / "api/index.html").read_text(encoding="utf-8")
    assert "Run a frozen backbone once over a task" in api
    assert "Length limit of a source text, in tokens" in api
    assert not [page for page in site.rglob("*.html") if "fonts.googleapis" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("link", ["nowhere.md", "store.md#nowhere", "../read_cache/nowhere.py"])
def test_a_link_that_leads_nowhere_fails(root, link) -> None:
    with (root / "docs/tour.md").open("a") as page:
        page.write(f"\n[a link]({link})\n")
    done = build(root)
    assert done.returncode != 0
    assert "nowhere" in done.stderr
