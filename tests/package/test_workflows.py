"""What the workflows of GitHub run exists, and needs nothing of one machine."""

import re

import pytest
import yaml
from test_surface import PROJECT

from support.pages import ROOT

WORKFLOWS = {path.stem: path for path in (ROOT / ".github/workflows").glob("*.yml")}
HOSTS = {"download.pytorch.org"}
"""That workflows may name; packages come from the default index otherwise."""
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
VERSIONS = [word.rpartition(" ")[2] for word in PROJECT["classifiers"] if "Python :: 3." in word]


def steps(name: str) -> list[dict[str, str]]:
    jobs = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_there_is_one_for_tests_wheel_and_docs() -> None:
    assert WORKFLOWS.keys() == {"tests", "wheel", "docs"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_valid_and_public(name) -> None:
    text = WORKFLOWS[name].read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    assert values["permissions"] == {"contents": "read"}
    assert "pull_request" in values[True]  # YAML 1.1 reads the key `on` as true
    for step in steps(name):
        assert step.keys() & {"uses", "run"}
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/any@v1"))
    assert set(re.findall(r"https?://([^/\s]+)", text)) <= HOSTS


@pytest.mark.parametrize("name", ["tests", "wheel"])
def test_every_python_of_the_package_is_tried(name) -> None:
    jobs = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))["jobs"]
    tried = [job["strategy"]["matrix"]["python"] for job in jobs.values() if "strategy" in job]
    assert tried == [VERSIONS]
    assert PROJECT["requires-python"] == f">={VERSIONS[0]}"


@pytest.mark.parametrize("name", [*WORKFLOWS, "CONTRIBUTING"])
def test_targets_and_files_that_are_run_exist(name) -> None:
    if name == "CONTRIBUTING":
        commands = re.findall(r"(?:`|^)((?:make|\.venv)[^`#\n]+)", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    else:
        commands = [step["run"] for step in steps(name) if "run" in step]
    assert commands
    for program, *words in map(str.split, commands):
        if program == "make":
            for target in words:
                assert re.search(rf"^{target}:", MAKEFILE, re.M), target
        paths = [word for word in words if word.startswith(("tests/", "cli/", "docs/"))]
        assert all((ROOT / path).exists() for path in paths), paths
