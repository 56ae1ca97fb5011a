"""The documentation is true: its examples run and print what it shows, and what it names exists."""

import contextlib
import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydantic import BaseModel

from read_cache.bench.case import BenchConfig
from read_cache.config import ExtractConfig, ExtractPlace, Place, PredictConfig, RunConfig, ServeConfig
from read_cache.methods import METHODS
from read_cache.networks import NETWORKS
from read_cache.scoring.heads import HeadSettings
from read_cache.training.network_config import NetworkConfig
from support.pages import BLOCK, PAGES, ROOT, application, blocks, check_links, parse

CALL = re.compile(r"read-cache ([a-z]+)((?: [^|&;#\n]*)?)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
SETTING = re.compile(r"--(?:train-)?set[ =]([\w.]+)=")

each_page = pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def spans_of(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", text_of(page)))


@pytest.mark.parametrize("name", PAGES)
def test_examples_run_and_print_what_is_shown(reader, name) -> None:
    reader.follow(name)


@each_page
def test_links_lead_somewhere(page) -> None:
    check_links(page, page.read_text(encoding="utf-8"))


@functools.cache
def options() -> dict[str, set[str]]:
    """Options by command."""
    return {
        name: {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
        for name, command in application().commands.items()
    }


@functools.cache
def settings() -> dict[str, set[str]]:
    """The names that --set takes, by command."""

    def fields(*models: type[BaseModel]) -> set[str]:
        return {name for model in models for name in model.model_fields}

    extract = fields(ExtractConfig, ExtractPlace)
    trained = fields(NetworkConfig, RunConfig, Place) | {f"head.{name}" for name in HeadSettings.model_fields}
    train = trained | fields(*(network.Config for network in NETWORKS.values()))
    finetune = trained | fields(*(method.Config for method in METHODS.values()))
    own = {f"{kind}.{name}" for kind in (*NETWORKS, *METHODS) for name in (*train, *finetune, "lr")}
    extracting = {f"extract.{name}" for name in extract}
    return {
        "compare": train | finetune | own | extracting, "extract": extract,
        "train": train | {name for name in own if name.partition(".")[0] in NETWORKS},
        "finetune": finetune | {name for name in own if name.partition(".")[0] in METHODS},
        "plan": extract | train, "predict": fields(PredictConfig), "serve": fields(ServeConfig),
        "bench": fields(BenchConfig),
    }  # fmt: skip


@each_page
def test_commands_options_and_settings_that_are_named_exist(page) -> None:
    """An option stands in a call of `read-cache`, or in a code span after its command's name, or is some command's."""
    fenced, spans = [block.text for block in blocks(text_of(page))], spans_of(page)
    for name, rest in (call for piece in fenced + spans for call in CALL.findall(piece)):
        assert name in options(), f"read-cache {name}"
        assert set(OPTION.findall(rest)) <= options()[name], f"read-cache {name}{rest}"
        assert set(SETTING.findall(rest)) <= settings().get(name, set()), f"read-cache {name}{rest}"
    every = set().union({"name"}, *settings().values())  # --set name=value
    for span in spans:
        if "read-cache" not in span:
            known = options().get(span.split()[0], set().union(*options().values()))
            assert set(OPTION.findall(span)) <= known, span
            assert set(SETTING.findall(span)) <= every, span
            if match := re.fullmatch(r"([a-z][a-z_.]*)=\S*", span):
                assert match[1] in every, span


@each_page
def test_calls_in_blocks_that_are_not_run_can_be_parsed(page) -> None:
    for block in blocks(text_of(page)):
        if block.skipped and block.kind in ("", "sh"):
            for line in re.findall(r"^read-cache .*$", block.text, re.M):
                parse(shlex.split(line, comments=True)[1:])


@each_page
def test_python_names_and_files_that_are_named_exist(page) -> None:
    code = [block.text for block in blocks(text_of(page)) if block.kind != "text"]
    shown = re.findall(r"^::: \S+$", text_of(page), re.M)  # docstrings in the site
    names = "\n".join([*code, *spans_of(page), *shown])
    for name in re.findall(r"(?<![\w/.])read_cache(?:\.[a-zA-Z_]\w*)+(?!\w*/)", names):
        resolve(name)
    for span in spans_of(page):
        for path in re.findall(r"(?<![\w/.-])(?:read_cache|cli|data|docs|tests)/[\w/.-]+\.\w+", span):
            assert (ROOT / path).exists(), path


def resolve(name: str) -> object:
    """What a dotted name stands for. Fails if there is nothing of that name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:count]))
            for part in parts[count:]:
                found = getattr(found, part)
            return found
    raise AssertionError(name)


def calls_of_make(pages: Iterable[Path]) -> list[str]:
    return sorted({call for page in pages for call in re.findall(r"(?:`|^)(make [^`#\n]+)", page.read_text(), re.M)})


@pytest.mark.parametrize("call", calls_of_make(PAGES.values()))
def test_targets_of_make_that_are_named_exist(call, tmp_path) -> None:
    for task in ("cola", "rows"):
        (tmp_path / task).mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    words = [*shlex.split(call.replace("=FOLDER", f"={tmp_path}")), "--dry-run", "--directory", str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" not in done.stdout


def test_each_extension_is_under_60_lines() -> None:
    sections = re.split(r"^## ", PAGES["docs/extending"].read_text(encoding="utf-8"), flags=re.M)[1:]
    lines = {
        section.partition("\n")[0]: sum(
            len(list(filter(str.strip, block.text.splitlines()))) for block in blocks(section) if block.kind == "python"
        )
        for section in sections
    }
    assert len(lines) == 5
    assert all(0 < count < 60 for count in lines.values()), lines


def test_the_readme_has_120_lines() -> None:
    assert len(PAGES["README"].read_text(encoding="utf-8").splitlines()) <= 120


def test_every_page_is_listed_and_every_image_is_used() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", PAGES["docs/README"].read_text()))
    assert listed == {page.name for name, page in PAGES.items() if name.startswith("docs/") and name != "docs/README"}
    text = "".join(page.read_text() for page in PAGES.values())
    assert not [path.name for path in (ROOT / "docs").glob("*.png") if f"({path.name})" not in text]


def test_pages_do_not_import_more_than_they_say() -> None:
    """docs/python.md: `import read_cache` alone loads neither torch nor transformers."""
    program = "import read_cache, sys; print(sorted({'torch', 'transformers', 'zarr', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
