"""docs/stability.md lists the public surface, and the numbers of versions and formats are those of the code."""

import json
import re
import tomllib

import pytest

import read_cache
from read_cache.cli.app import COMMANDS, main
from read_cache.errors import UserError
from read_cache.networks.saved import NETWORK_VERSION, load_network
from read_cache.store.schema import SCHEMA_VERSION
from support.pages import PAGES, ROOT

PAGE = PAGES["docs/stability"].read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def first_column(heading: str) -> list[str]:
    """The code spans in the first column of the first table under a heading."""
    section = re.split(rf"^## {heading}$", PAGE, flags=re.M)[1]
    rows = re.findall(r"^\|(.*?)\|", section.partition("\n\n## ")[0].strip(), re.M)
    table = rows[: next((index for index, row in enumerate(rows[2:], 2) if "`" not in row), len(rows))]
    return re.findall(r"`(\w+)`", " ".join(table))


def test_the_page_lists_every_name_and_command() -> None:
    assert sorted(first_column("Python")) == sorted(read_cache.__all__)
    assert sorted(first_column("Command line")) == sorted(COMMANDS)


def test_the_page_has_the_numbers_of_the_formats_and_all_exit_codes() -> None:
    assert f"schema {SCHEMA_VERSION} |" in PAGE
    assert f"version {NETWORK_VERSION} |" in PAGE
    codes = set(re.findall(r"^\| (\d+) \|", PAGE, re.M))
    assert codes == set(re.findall(r"\b\d+\b", main.__doc__)) == {"0", "1", "2", "130"}


def test_a_network_of_a_later_version_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"version": NETWORK_VERSION + 1, "name": "later"}))
    with pytest.raises(UserError, match=f"format version {NETWORK_VERSION + 1}.*update"):
        load_network(tmp_path)


def test_the_version_is_everywhere_the_same() -> None:
    assert read_cache.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
