"""Stores behind URLs: an S3 service on loopback, and fsspec's memory."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from s3fs import S3FileSystem

import read_cache
from read_cache.errors import StoreError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.meters.readings import read_sessions
from read_cache.store.files import open_files
from read_cache.store.folder import find_stores
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store
from read_cache.store.writer import PartBuffer, StoreWriter
from read_cache.watch import Watch
from support.extracting import WORDS, extract
from support.faults import faulty
from support.processes import contents, run_python
from support.s3 import BUCKET, ENVIRONMENT, objects, serve
from support.spoil import cut
from support.stores import make_store

HIDDEN = "arrays.zarr/train/encoder/hidden/c/0/1/0"
PLAN = "arrays.zarr/validation/encoder/length/c/0"
LIMIT = {"max_source_length": 40}
DIES = """import json, os, sys
from support.extracting import extract
from read_cache.store.writer import StoreWriter
from read_cache.store.remote import RemoteFiles
whole, written = {method}, []
def counted(self, *given):
    if len(written) == {count}:
        os._exit(9)
    written.append(given)
    return whole(self, *given)
{method} = counted
extract(*sys.argv[1:], max_source_length=40)"""
"""An extraction that dies when it has called a method so many times."""


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch) -> None:
    """Copies of parts are in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=["s3", "memory"])
def where(request, bert, models, rows_folder) -> tuple[str, tuple[Path, Path, Path]]:
    """A protocol, and model, task and dataset of the `words` store; a BERT has the fewest objects to ask S3 for."""
    model = bert if request.param == "s3" else models["tied"]
    return request.param, (model, rows_folder / "words.toml", rows_folder / "words")


@pytest.fixture(scope="module")
def remote(where, service) -> StoreReader:
    """The `words` store behind a URL; not to be changed."""
    protocol, (model, task, rows) = where
    return make_store(f"{protocol}://{BUCKET}/sealed/words", model, str(task), rows, **LIMIT)


@pytest.fixture(scope="module")
def local(where, tmp_path_factory) -> Path:
    """The same in a folder; not to be changed."""
    _, (model, task, rows) = where
    path = tmp_path_factory.mktemp("local") / "words"
    make_store(path, model, str(task), rows, **LIMIT)
    return path


@pytest.fixture
def words(bert, rows_folder) -> tuple[Path, Path, Path]:
    """Model, task and dataset."""
    return bert, rows_folder / "words.toml", rows_folder / "words"


@pytest.fixture
def words_files(words, tmp_path) -> dict[str, bytes]:
    """The files of their store."""
    extract(tmp_path / "words", *words, **LIMIT)
    return contents(tmp_path / "words")


@contextlib.contextmanager
def spoilt(url: str, name: str, spoil: Callable[[bytes], bytes] | None) -> Iterator[StoreReader]:
    """The store with one object changed, or without it; afterwards it is as it was."""
    files = open_files(url)
    data = files.read(name)
    if spoil is None:
        files.remove(name)
    else:
        files.write(name, spoil(data))
    try:
        yield StoreReader(url)
    finally:
        files.write(name, data)


def test_its_objects_are_the_local_files(remote, local) -> None:
    assert objects(remote.folder.path) == contents(local)
    assert list(verify_store(remote)) == []
    remote.check_plan()


def test_it_trains_what_the_local_store_trains(remote, local, tmp_path) -> None:
    settings = {"network": "read", "cell": "rnn", "hidden": 8, "epochs": 2, "batch_size": 8}
    far, near = (
        read_cache.train(store, tmp_path / name, **settings).results[0]
        for name, store in (("far", remote.folder.path), ("near", local))
    )
    assert far.history == near.history
    weights = [Path(result.folder, "model.safetensors").read_bytes() for result in (far, near)]
    assert weights[0] == weights[1]


def test_every_verb_takes_its_url(remote, where, tmp_path) -> None:
    url = remote.folder.path
    assert any("is complete already" in text for text in extract(url, *where[1], **LIMIT))
    parent = url.rpartition("/")[0]
    assert [store.path for store in find_stores(parent)[0]] == [url]
    results = read_cache.train(parent, tmp_path, network="read", hidden=4, epochs=1)
    assert [result.store for result in results.results] == [url]
    [row] = read_cache.evaluate(url, tmp_path)
    assert row["metric"] == results.best.test


def test_a_url_is_opened_by_what_the_environment_says(service) -> None:
    url = f"s3://{BUCKET}/nothing"
    with pytest.raises(StoreError, match=f"no store at {url}"):
        read_cache.open_store(url)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "count"), [("StoreWriter.write_part", 3), ("RemoteFiles.settle", 20)], ids=["parts", "plan"]
)
def test_killed_in_the_middle_the_same_call_goes_on(service, words_files, words, method, count) -> None:
    url = f"s3://{BUCKET}/killed-{method}"
    assert run_python(DIES.format(method=method, count=count), url, *words).returncode == 9
    assert "plan.json" in objects(url)
    with pytest.raises(StoreError, match="is not complete"):
        StoreReader(url)
    said = extract(url, *words, **LIMIT)
    assert any(": 3 of " in text for text in said) == (count == 3)
    assert objects(url) == words_files


def test_marks_of_parts_that_others_fill_are_listed_and_not_read(service, words, words_files, monkeypatch) -> None:
    """Worker 2 writes all that is left as soon as worker 1 has computed a part."""
    url, asked = f"s3://{BUCKET}/marks", []
    model, task, rows = map(str, words)

    def note(method: str, path: str) -> None:
        if mark := re.search(r"done(?:/|%2F)c(?:/|%2F)(\d+)", path):
            asked.extend([int(mark[1])] * (method != "PUT"))

    def others_write(*_: object) -> None:
        for name in words_files.keys() - open_files(url).sizes("").keys() - {"manifest.json"}:
            open_files(url).write(name, words_files[name])

    with faulty(os.environ["AWS_ENDPOINT_URL"], note) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        S3FileSystem.clear_instance_cache()
        watch = Watch(progress=others_write)
        store = read_cache.extract(model, task, url, dataset=rows, watch=watch, worker="1/2", **WORDS, **LIMIT)
        parts = [part for split in store.manifest.splits.values() for part in range(split.parts)]
        assert len(parts) == 4
        assert {part % 2 for part in asked} == {0}
        assert len(asked) <= 4 * sum(part % 2 == 0 for part in parts), "twice a part, and twice as the mark is absent"
        assert objects(url) == words_files
    S3FileSystem.clear_instance_cache()


def test_a_service_that_goes_away_ends_in_one_message_and_the_same_call_goes_on(
    words, words_files, monkeypatch
) -> None:
    server = serve()
    host, port = server.get_host_and_port()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})  # the other way to say it
    whole, written = StoreWriter.write_part, []

    def write_part(self: StoreWriter, buffer: PartBuffer) -> None:
        written.append(buffer)
        if len(written) == 3:
            server.stop()
        whole(self, buffer)

    monkeypatch.setattr(StoreWriter, "write_part", write_part)
    S3FileSystem.clear_instance_cache()
    system = fsspec.filesystem("s3")
    if not system.exists(BUCKET):
        system.mkdir(BUCKET)
    url = f"s3://{BUCKET}/away"
    with pytest.raises(StoreError, match=rf"{url}/.* cannot be reached"):
        extract(url, *words, **LIMIT)
    server = serve(port)
    assert any(": 2 of " in text for text in extract(url, *words, **LIMIT))
    assert objects(url) == words_files
    readings = read_sessions(open_files(url))
    assert readings is not None
    assert readings.sessions == 2, "of the first, what was kept before the service went away"
    server.stop()
    S3FileSystem.clear_instance_cache()


def read_for_training(store: StoreReader, split: str) -> None:
    """What a training reads of one split, and the plan of all."""
    store.check_plan()
    assert (store.head is not None) == store.manifest.backbone.language_model
    for _ in SplitBatches(store.split(split), make_collator(store), 8).in_order():
        pass


@pytest.mark.parametrize("name", [HIDDEN, PLAN])
@pytest.mark.parametrize("spoil", [None, cut], ids=["missing", "truncated"])
def test_what_is_missing_or_truncated_is_named(remote, name, spoil) -> None:
    array = name.removeprefix("arrays.zarr/").partition("/c/")[0]
    with spoilt(remote.folder.path, name, spoil) as store:
        findings = list(verify_store(store))
        assert len(findings) == 1
        assert array in findings[0]
        with pytest.raises(StoreError, match=array):
            read_for_training(store, array.partition("/")[0])


def test_an_exchanged_object_is_named(remote) -> None:
    other = remote.folder.files.read(HIDDEN.replace("/0/1/0", "/0/0/0"))
    with spoilt(remote.folder.path, HIDDEN, lambda data: other) as store:
        assert len(list(verify_store(store))) == 1
        with pytest.raises(StoreError, match=f"{HIDDEN} is intact but"):
            read_for_training(store, "train")


def test_a_truncated_object_is_named_where_only_some_layers_are_read(remote) -> None:
    stride = remote.split("train").shard("encoder/hidden").stride
    with (
        spoilt(remote.folder.path, HIDDEN, lambda data: data[:stride]) as store,
        pytest.raises(StoreError, match=f"{HIDDEN} .*The store is corrupt"),
    ):
        store.split("train").read_array("encoder/hidden", 1, [2])


def test_reading_some_layers_fetches_only_their_ranges(remote, monkeypatch) -> None:
    split = StoreReader(remote.folder.path).split("train")
    shard, layers = split.shard("encoder/hidden"), [2]
    system, fetched = type(split.folder.files.system), []
    method = "_cat_file" if system is S3FileSystem else "cat_file"
    whole = getattr(system, method)

    def cat_file(self, path, *args, start=None, end=None, **options):
        if args:
            start, end = args
        fetched.append((path.rpartition("/hidden/")[2], start, end))
        return whole(self, path, start=start, end=end, **options)

    expected = split.read_array("encoder/hidden", 1)[[0, 2, 3]]
    monkeypatch.setattr(system, method, cat_file)
    assert np.array_equal(split.read_array("encoder/hidden", 1, layers), expected)
    stride = shard.stride
    assert sorted(fetched) == [("c/0/1/0", place * stride, (place + 1) * stride) for place in (0, 2, 3)]


@pytest.mark.parametrize("verb", ["open_store", "train", "evaluate"])
@pytest.mark.parametrize(
    ("url", "says", "environment"),
    [
        (f"s3://{BUCKET}/x", "cannot be reached: Could not connect", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
        ("s3://no-such-bucket/x", "no ", {}),
        ("s3://no-such-bucket/x", "cannot be reached", {"AWS_SECRET_ACCESS_KEY": ""}),
        ("ftpz://host/x", "cannot be opened: Protocol not known", {}),
    ],
    ids=["service away", "no bucket", "credentials", "protocol"],
)
def test_a_url_that_leads_nowhere(service, tmp_path, monkeypatch, verb, url, says, environment) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    more = {"baselines": True} if verb == "evaluate" else {}
    with pytest.raises(StoreError, match=says) as told:
        getattr(read_cache, verb)(url, **more)
    S3FileSystem.clear_instance_cache()
    assert url in str(told.value)
    assert not list(tmp_path.iterdir())


def test_extracting_into_a_bucket_that_is_not_there(service, words) -> None:
    url = "s3://no-such-bucket/x"
    with pytest.raises(StoreError, match=f"{url} cannot be written: The specified bucket does not exist"):
        extract(url, *words, **LIMIT)
