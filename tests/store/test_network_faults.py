"""An object store behind a bad network: requests are repeated, with longer and longer waits, and then named."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest
from s3fs import S3FileSystem

import read_cache
from read_cache.errors import StoreError
from support.extracting import extract
from support.faults import FAULTS, Proxy, faulty
from support.processes import contents
from support.s3 import BUCKET, objects

LIMIT = {"max_source_length": 40, "max_examples": 12}
READ = {"network": "read", "hidden": 4, "epochs": 1, "batch_size": 8}


@pytest.fixture
def behind(service, monkeypatch) -> Iterator[Callable[..., Proxy]]:
    """A function that puts a proxy before the service, for all clients that are opened afterwards."""
    url = os.environ["AWS_ENDPOINT_URL"]
    with ExitStack() as stack:

        def put(fault: Callable[[str, str], str | None]) -> Proxy:
            proxy = stack.enter_context(faulty(url, fault))
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            monkeypatch.delenv("AWS_MAX_ATTEMPTS")
            monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 1}})
            S3FileSystem.clear_instance_cache()
            return proxy

        yield put
    S3FileSystem.clear_instance_cache()


def every(period: int, faults: tuple[str, ...]) -> Callable[[str, str], str | None]:
    """One request in `period` has the next fault in turn."""
    requests, turns = itertools.count(1), itertools.cycle(faults)
    return lambda method, path: next(turns) if next(requests) % period == 0 else None


@pytest.fixture
def words(bert, rows_folder) -> tuple[Path, Path, Path]:
    """Model, task and dataset."""
    return bert, rows_folder / "words.toml", rows_folder / "words"


def test_a_store_is_written_and_read_through_a_bad_network(behind, words, tmp_path) -> None:
    extract(tmp_path / "store", *words, **LIMIT)
    near = read_cache.train(tmp_path / "store", tmp_path / "near", **READ).results[0]
    proxy, url = behind(every(29, FAULTS)), f"s3://{BUCKET}/bad-network"
    extract(url, *words, **LIMIT)
    far = read_cache.train(url, tmp_path / "far", **READ).results[0]
    assert {fault for _, fault, _ in proxy.faults} == set(FAULTS)
    assert far.history == near.history
    proxy.fault = lambda method, path: None
    assert objects(url) == contents(tmp_path / "store")


@pytest.mark.parametrize(
    ("verb", "fault"),
    [("read", "500"),
     *(pytest.param("read", fault, marks=pytest.mark.slow) for fault in ("refuse", "hang", "cut")),
     *(pytest.param("write", fault, marks=pytest.mark.slow) for fault in ("500", "refuse", "hang", "lose"))],
)  # fmt: skip
def test_a_request_that_is_never_answered_well_is_named(behind, words, tmp_path, monkeypatch, verb, fault) -> None:
    url, name = f"s3://{BUCKET}/never-{verb}-{fault}", "train/encoder/hidden/c/0/0/0"
    method = "GET" if verb == "read" else "PUT"
    if verb == "read":
        extract(url, *words, **LIMIT)
    proxy = behind(lambda asked, path: fault if asked == method and path.split("?")[0].endswith(name) else None)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    run = {"read": lambda: read_cache.train(url, tmp_path, **READ), "write": lambda: extract(url, *words, **LIMIT)}
    with pytest.raises(StoreError, match=f"{url}/.*{name} cannot be reached") as told:
        run[verb]()
    assert "\n" not in str(told.value)
    times = [at for at, _, _ in proxy.faults]
    if fault == "500":  # botocore alone repeats what S3 has answered
        assert len(times) == 2
    else:
        assert len(times) >= 5
        assert times[-1] - times[0] > 1, "with longer and longer waits"
    proxy.fault = lambda method, path: None
    extract(url, *words, **LIMIT)
    assert read_cache.train(url, tmp_path, **READ).results, "the same commands go on"
