"""The documentation is true: its examples run and print what it shows, and what it names is there."""

import dataclasses
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import crc32c
import numpy as np
import pytest
import torch

from conftest import make_store
from pages import BLOCK, DOCS, Reader, application
from read_cache.loader.batch import rms_norm
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.store.schema import (
    DONE,
    HEAD_TOKENS,
    HEAD_WEIGHT,
    PLAN_ARRAYS,
    SCHEMA_VERSION,
    Form,
    activation_arrays,
    calibration_arrays,
)

ROOT = DOCS.parent
PAGES = sorted(DOCS.glob("*.md"))
WRITTEN = [ROOT / "README.md", *PAGES]
CALL = re.compile(r"read-cache ([a-z]+)((?: [^|&;#\n]*)?)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")

each_page = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Reader(folder)


@pytest.mark.parametrize("page", [page.stem for page in PAGES])
def test_examples_run_and_print_what_is_shown(reader, page) -> None:
    reader.follow(page)


@pytest.mark.parametrize("form", [{}, {"dtype": "fp32"}, {"dtype": "int8"}, {"rank": 8}, {"dtype": "int8", "rank": 8}])
def test_the_pages_reading_gives_what_networks_see(reader, models, rows_folder, tmp_path, form) -> None:
    """phi over its root mean square is what the collator makes of stored values, by code of its own."""
    encoder_states = reader.follow("store")["encoder_states"]
    store = make_store(tmp_path / "s", models["tied"], str(rows_folder / "words.toml"), rows_folder / "words", **form)
    seen = next(SplitBatches(store.split("train"), make_collator(store), 40).in_order())
    for i in (0, 17, 39):
        states = torch.from_numpy(encoder_states(Path(store.folder.path), "train", i))
        expected = seen.encoder.whole_states()[:, i, : states.shape[1]]
        torch.testing.assert_close(rms_norm(states), rms_norm(expected), atol=1e-5, rtol=1e-4)


def test_the_pages_attention_is_what_the_reader_gives(reader) -> None:
    names = reader.follow("store")
    split = StoreReader(names["store"]).split("validation")
    part = split.read_part(int(np.searchsorted(split.layout.part_start, names["i"], side="right")) - 1)
    before = slice(part.examples.start, names["i"])
    pair, token = (int(split.layout.extents[axis][before].sum()) for axis in ("pair", "token"))
    count = int(split.plan["length"][names["i"]])
    weights = part.arrays["encoder/attention"][:, pair : pair + count**2]
    assert np.array_equal(names["attention"], weights.reshape(-1, count, count))
    assert np.array_equal(names["bits"], part.arrays["encoder/hidden"][:, token : token + count])


def test_a_parts_checksum_is_as_the_page_says(reader) -> None:
    store = StoreReader(reader.follow("store")["store"])
    split, checksums = store.split("validation"), b""
    for spec in activation_arrays(store.manifest.form):
        data = (reader.names["store"]["store"] / store.manifest.shard_file(spec, "validation", 1)).read_bytes()
        layer_bytes = np.dtype(spec.dtype).itemsize * int(np.prod(split.open_array(spec.name).chunks))
        for layer in range(split.open_array(spec.name).shape[0]):
            start = layer * (layer_bytes + 4)
            checksums += crc32c.crc32c(data[start : start + layer_bytes]).to_bytes(4, "little")
    assert crc32c.crc32c(checksums) == split.done[1]


def test_the_tables_of_arrays_are_the_schema() -> None:
    plain_form = Form("bf16", "mean", "fp16", 0, (1,), (1,))
    coded = dataclasses.replace(plain_form, dtype="int8", rank=1)
    specs = [*PLAN_ARRAYS, *activation_arrays(plain_form), DONE, HEAD_TOKENS, HEAD_WEIGHT, *calibration_arrays(coded)]
    specs += [spec for spec in activation_arrays(coded) if spec.name == "encoder/rms"]
    rows = re.findall(r"^\| (`.+?) \| ([\w, ]+) \| (u?int\d+|float\d+) \|", (DOCS / "store.md").read_text(), re.M)
    told = {(name, axes, dtype) for names, axes, dtype in rows for name in re.findall(r"`(.+?)`", names)}
    assert told == {(spec.name, ", ".join(spec.axes), spec.dtype) for spec in specs}
    text = (DOCS / "store.md").read_text()
    assert f"schema version {SCHEMA_VERSION}" in text
    for field in (*dataclasses.fields(Manifest), *dataclasses.fields(Form)):
        assert re.search(rf"\b{field.name}\b", text), f"store.md does not mention {field.name}"


@each_page
def test_links_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """What a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_commands_and_options_that_are_named_exist(page) -> None:
    """An option stands in a call of `read-cache`, or in a code span after its command's name, or is some command's."""
    known = {
        name: {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
        for name, command in application().commands.items()
    }
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = [match["text"] for match in BLOCK.finditer(text)]
    spans = re.findall(r"`([^`]+)`", BLOCK.sub("", text))
    for name, rest in (call for piece in fenced + spans for call in CALL.findall(piece)):
        assert name in known, f"read-cache {name}"
        assert set(OPTION.findall(rest)) <= known[name], f"read-cache {name}{rest}"
    for span in spans:
        if "read-cache" not in span:
            options = known.get(span.split()[0], set().union(*known.values()))
            assert set(OPTION.findall(span)) <= options, span


def test_targets_of_make_that_are_named_exist(tmp_path: Path) -> None:
    (tmp_path / "cola").mkdir()
    calls = {call for page in WRITTEN for call in re.findall(r"(?:`|^)(make [^`#\n]+)", page.read_text(), re.M)}
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    for call in sorted(calls):
        call = call.replace(" TARGET", " demo").replace("=FOLDER", f"={tmp_path}")
        words = [*shlex.split(call), "--dry-run", "--directory", str(ROOT)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, f"{call}: {done.stderr}"


def test_bytes_a_token_are_quoted_from_the_readme() -> None:
    rows = re.findall(r"^\| .*--(?:dtype|rank).* \| ([\d,]+) \|", (DOCS / "choosing.md").read_text(), re.M)
    measured = re.search(r"^\| bytes a token \| (.*) \|$", (ROOT / "README.md").read_text(), re.M)
    assert measured
    assert len(rows) == 6
    assert set(rows) < set(measured[1].split(" | "))
