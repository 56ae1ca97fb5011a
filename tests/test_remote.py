"""Stores behind URLs: an S3 service on loopback, and fsspec's memory."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from s3fs import S3FileSystem

from conftest import make_store, run_cli
from processes import contents, run
from read_cache.errors import StoreError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.meters.sessions import read_sessions
from read_cache.networks.config import ReadConfig
from read_cache.store.files import open_files
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store
from read_cache.store.writer import StoreWriter
from read_cache.train.grid import NetworkConfig, TrainConfig
from read_cache.train.run import train_store
from s3 import BUCKET, ENVIRONMENT, extract_words, objects, serve
from spoil import cut

HIDDEN = "arrays.zarr/train/encoder/hidden/c/0/1/0"
PLAN = "arrays.zarr/validation/length/c/0"
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module", params=["s3", "memory"])
def remote(request, service, models, rows_folder) -> StoreReader:
    """The `words` store behind a URL; not to be changed."""
    url = f"{request.param}://{BUCKET}/sealed/words"
    return make_store(url, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")


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


def test_its_objects_are_the_local_files(remote, words_store) -> None:
    assert objects(remote.folder.path) == contents(words_store)
    assert list(verify_store(remote)) == []


def test_it_trains_what_the_local_store_trains(remote, words_store, tmp_path) -> None:
    config, run_config = NetworkConfig(ReadConfig("rnn", 8)), TrainConfig(epochs=2, batch_size=8)
    far, near = (
        train_store(folder, tmp_path / name, [config], run_config)[0]
        for name, folder in (("far", remote.folder), ("near", StoreFolder(words_store)))
    )
    assert far["history"] == near["history"]
    weights = [Path(result["folder"], "model.safetensors").read_bytes() for result in (far, near)]
    assert weights[0] == weights[1]


def test_every_command_takes_its_url(remote, tmp_path, monkeypatch, capsys, models, rows_folder) -> None:
    url = remote.folder.path
    code, out, err = run(extract_words(models, rows_folder, url), monkeypatch, capsys)
    assert (code, "is complete already" in err) == (0, True)
    parent = url.rpartition("/")[0]
    train = ["train", "--store", parent, "--out", tmp_path, "--hidden", 4, "--epochs", 1, "--json"]
    code, out, err = run(train, monkeypatch, capsys)
    assert (code, f'"store": "{url}"' in out) == (0, True)
    for words, says in (
        (["inspect", url], "decoder/cross_attention"),
        (["verify", parent], ""),
        (["evaluate", "--store", url, "--network", tmp_path], "gru-4"),
    ):
        code, out, err = run(words, monkeypatch, capsys)
        assert code == 0, err
        assert says in out


def test_the_environment_says_where_the_service_is(service, tmp_path) -> None:
    done = run_cli("inspect", f"s3://{BUCKET}/nothing")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: no store at s3://{BUCKET}/nothing: make one with")
    away = run_cli("inspect", f"s3://{BUCKET}/nothing", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert away.returncode == 2
    assert len(away.stderr.splitlines()) == 1
    assert "cannot be reached: Could not connect" in away.stderr


@pytest.mark.slow
def test_killed_after_three_parts_the_same_command_goes_on(service, words_store, models, rows_folder) -> None:
    url = f"s3://{BUCKET}/killed"
    dies = """import os
from read_cache.store.writer import StoreWriter
whole, written = StoreWriter.write_part, []
def write_part(self, buffer):
    if len(written) == 3:
        os._exit(9)
    written.append(whole(self, buffer))
StoreWriter.write_part = write_part"""
    command = extract_words(models, rows_folder, url)
    assert run_cli(*command, code=dies).returncode == 9
    assert "plan.json" in objects(url)
    with pytest.raises(StoreError, match="is not complete"):
        StoreReader(url)
    finished = run_cli(*command)
    assert finished.returncode == 0, finished.stderr
    assert "going on: 3 of" in finished.stderr
    assert objects(url) == contents(words_store)


def test_a_service_that_goes_away_ends_in_one_message_and_the_same_command_goes_on(
    words_store, models, rows_folder, monkeypatch, capsys
) -> None:
    server = serve()
    host, port = server.get_host_and_port()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})  # the other way to say it
    whole, written = StoreWriter.write_part, []

    def write_part(self: StoreWriter, buffer: object) -> None:
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
    command = extract_words(models, rows_folder, url)
    code, out, err = run(command, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
    assert f"{url}/arrays.zarr" in err
    assert "cannot be reached" in err
    server = serve(port)
    code, out, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert "going on: 2 of" in err
    assert objects(url) == contents(words_store)
    readings = read_sessions(open_files(url))
    assert readings is not None
    assert readings.sessions == 2, "of the first, what was kept before the service went away"
    server.stop()
    S3FileSystem.clear_instance_cache()


def read_for_training(store: StoreReader) -> None:
    """Everything a training reads."""
    store.head  # noqa: B018
    for name in SPLITS:
        for _ in SplitBatches(store.split(name), make_collator(store), 8).in_order():
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
            read_for_training(store)


def test_a_truncated_object_is_named_where_only_some_layers_are_read(remote) -> None:
    stride = remote.split("train").shard("encoder/hidden").stride
    with (
        spoilt(remote.folder.path, HIDDEN, lambda data: data[:stride]) as store,
        pytest.raises(StoreError, match=r"train/encoder/hidden, part 1 .*The store is corrupt"),
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


@pytest.mark.parametrize("words", [["inspect"], ["verify"], ["train", "--out", "runs", "--store"]])
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
def test_a_url_that_leads_nowhere(service, tmp_path, monkeypatch, capsys, words, url, says, environment) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    code, out, err = run([*words, url], monkeypatch, capsys)
    S3FileSystem.clear_instance_cache()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert says in err
    assert url in err
    assert not list(tmp_path.iterdir())


def test_extracting_into_a_bucket_that_is_not_there(service, models, rows_folder, monkeypatch, capsys) -> None:
    url = "s3://no-such-bucket/x"
    code, out, err = run(extract_words(models, rows_folder, url), monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert f"error: {url} cannot be written: The specified bucket does not exist" in err
