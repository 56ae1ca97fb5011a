"""Stores whose manifest or files hold anything: an error of the package, or the batches of the intact store."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import read_cache
from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import FromStore
from support.files import tensors
from support.stores import make_store
from support.training import network

CASES = pytest.mark.parametrize("cases", [300, pytest.param(10_000, marks=pytest.mark.slow)])
"""Cases of both backbones and of both tests together."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["encoder", "decoder", "fp32", "int8", "pooled", "heads", "mean", "pearson_spearman", "full"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
BYTES = st.one_of(
    st.binary(max_size=64), st.integers(0, 80).map(bytes), st.sampled_from([b"{}", b"null", b'"', b"[", b"}", b"1e999"])
)


@pytest.fixture(scope="module", params=["t5", "bert"])
def store(request, tmp_path_factory, models, bert, rows_folder) -> Path:
    """A small store, which every case leaves as it was."""
    path = tmp_path_factory.mktemp("fuzzed") / "store"
    model = models["tied"] if request.param == "t5" else bert
    limits = {"max_examples": 8, "max_source_length": 40}
    make_store(path, model, str(rows_folder / "words.toml"), rows_folder / "words", **limits)
    return path


def train_on(path: Path) -> Iterator[list[torch.Tensor]]:
    """What training checks before its first batch, and every tensor of every batch of every split."""
    folder = StoreFolder(path)
    FromStore(folder).check([network(hidden=4)], folder.read_manifest())
    reader = StoreReader(folder)
    reader.check_plan()
    for name in reader.manifest.splits:
        for batch in SplitBatches(reader.split(name), make_collator(reader, raw=True), 8).in_order():
            yield list(tensors(batch))


def train_and_evaluate(path: Path) -> None:
    """Train two networks for an epoch, and score them."""
    out = path.parent / "run"
    shutil.rmtree(out, ignore_errors=True)
    read_cache.train(path, out, network=["read", "probe"], hidden=4, epochs=1, batch_size=8)
    read_cache.evaluate(path, out, baselines=True)


def fuzz(
    cases: int,
    path: Path,
    name_and_bytes: st.SearchStrategy[tuple[str, bytes]],
    then: Callable[[Path], None] = lambda path: None,
) -> None:
    """Write the bytes of each case in place of a file; read all batches, `then` more, and put the file back."""
    true = list(train_on(path))

    @settings(
        max_examples=cases, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(name_and_bytes)
    def check(case: tuple[str, bytes]) -> None:
        name, data = case
        whole = (path / name).read_bytes()
        (path / name).write_bytes(data)
        try:
            for batch, expected in zip(train_on(path), true, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))
            then(path)
        except UserError:
            pass
        finally:
            (path / name).write_bytes(whole)

    check()


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def with_value(text: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    """A JSON text with another value in one place; without that place if the value is Ellipsis."""
    whole = json.loads(text)
    if not path:
        return json.dumps(None if value is ... else value).encode()
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(whole).encode()


@st.composite
def spliced(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes of which some are removed and others put in their place; the number may stay the same."""
    start = draw(st.integers(0, len(whole)))
    new = draw(BYTES)
    removed = draw(st.just(len(new)) | st.integers(0, len(whole) - start))
    return whole[:start] + new + whole[start + removed :]


@CASES
def test_a_fuzzed_manifest(store, cases) -> None:
    text = (store / "manifest.json").read_bytes()
    places = st.sampled_from(list(paths_in(json.loads(text))))
    values = st.builds(with_value, st.just(text), places, JSON | st.just(...))
    fuzz(cases // 4, store, st.tuples(st.just("manifest.json"), values | spliced(text)), train_and_evaluate)


@CASES
def test_fuzzed_files(store, cases) -> None:
    whole = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    spliced_files = [st.tuples(st.just(name), spliced(data)) for name, data in whole.items()]
    exchanged = st.tuples(st.sampled_from(list(whole)), st.sampled_from(list(whole.values())))
    fuzz(cases // 4, store, st.one_of(*spliced_files, exchanged))
