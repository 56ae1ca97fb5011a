"""The engine ray on a cluster of three nodes on this machine, each with one core, beside an S3 service on loopback."""

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import read_cache
from read_cache.config import Work
from read_cache.engines import open_engine
from read_cache.errors import StoreError
from read_cache.watch import Watch
from support.extracting import WORDS
from support.processes import contents
from support.s3 import BUCKET, objects

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'read-cache[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.slow
RAY = {"engine": "ray", "workers": 3}
SMALL_PARTS = {"part_tokens": 24, "batch_tokens": 24}


@pytest.fixture(scope="module")
def cluster(service) -> Iterator[Cluster]:
    """Three nodes that this process uses. They start after the S3 service, whose variables their workers inherit."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # nodes cannot import this file
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def words(models, rows_folder) -> dict[str, Any]:
    """Arguments of `extract` for the fixture `words_store`."""
    return {"model": str(models["tied"]), "task": str(rows_folder / "words.toml"), "dataset": rows_folder / "words"}


@contextlib.contextmanager
def squares(watch: Watch) -> Iterator[Callable[[int], tuple[int, str]]]:
    """A worker that squares numbers and returns its node too. It says and raises things."""

    def square(number: int) -> tuple[int, str]:
        if number < 0:
            raise StoreError(f"found {number}")
        watch.say(f"square of {number}")
        watch.progress("squares", 1, 2)
        watch.event("squared", number)
        time.sleep(0.2)
        return number**2, ray.get_runtime_context().get_node_id()

    yield square


def test_results_come_in_order_from_all_nodes_and_workers_are_heard(cluster) -> None:
    said: list[str] = []
    seen: list[tuple[str, int, int]] = []
    events: list[tuple[str, int]] = []
    engine = open_engine(Work(**RAY))
    watch = engine.relay(
        Watch(said.append, lambda *facts: seen.append(facts), event=lambda *event: events.append(event))
    )
    results = list(engine.map(functools.partial(squares, watch), range(30)))
    assert [square for square, _ in results] == [number**2 for number in range(30)]
    assert {node for _, node in results} == {node["NodeID"] for node in ray.nodes()}
    assert sorted(said) == sorted(f"square of {number}" for number in range(30))
    assert seen[-1] == ("squares", 3, 6)
    assert sorted(events) == [("squared", number) for number in range(30)]


def test_an_error_of_a_unit_arrives_as_it_was_raised(cluster) -> None:
    with pytest.raises(StoreError, match=r"^found -1$"):
        list(open_engine(Work(**RAY)).map(functools.partial(squares, Watch()), [1, -1, 2]))


def test_a_unit_that_ends_its_workers_ends_the_work(cluster) -> None:
    with pytest.raises(read_cache.UserError, match="unit 1 of 1"):
        list(open_engine(Work(**RAY)).map(functools.partial(contextlib.nullcontext, os._exit), [3]))


def test_extract_leaves_the_bytes_of_one_process(cluster, words, words_store, tmp_path) -> None:
    read_cache.extract(store=tmp_path / "store", **words, **WORDS, **RAY)
    assert contents(tmp_path / "store") == contents(words_store)
    read_cache.extract(store=f"s3://{BUCKET}/words", **words, **WORDS, **RAY)
    assert objects(f"s3://{BUCKET}/words") == contents(words_store)


def kill_worker(cluster: Cluster) -> None:
    """Kill -9 one actor."""
    actors = ray._private.state.actors().values()
    os.kill(next(actor["Pid"] for actor in actors if actor["State"] == "ALIVE"), signal.SIGKILL)


def remove_node(cluster: Cluster) -> None:
    """Kill -9 a node with all its processes."""
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)


@pytest.mark.parametrize("lose", [kill_worker, remove_node])
def test_what_is_lost_while_a_store_is_filled_is_computed_by_others(cluster, words, tmp_path, lose) -> None:
    read_cache.extract(store=tmp_path / "whole", **words, **SMALL_PARTS)
    calls: list[int] = []

    def progress(name: str, done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 6:
            lose(cluster)

    read_cache.extract(store=tmp_path / "store", watch=Watch(progress=progress), **words, **SMALL_PARTS, **RAY)
    assert len(calls) > 15
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    if lose is remove_node:
        cluster.add_node(num_cpus=1)


def test_a_sweep_has_the_results_of_the_local_engine(cluster, words_store, tmp_path) -> None:
    grid = {"network": ["read", "probe"], "cell": "rnn", "hidden": [4, 6], "epochs": 2, "batch_size": 8, "lr": 0.01}
    by_engine = {}
    for engine in ({}, RAY):
        results = read_cache.train(words_store, tmp_path / str(len(engine)), **grid, **engine).results
        by_engine[len(engine)] = {result.network: (result.history, contents(Path(result.folder))) for result in results}
    assert len(by_engine[0]) == 3
    assert by_engine[2] == by_engine[0]


def test_a_cluster_that_does_not_respond_is_named(words_store, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:1", "nowhere"):
        with pytest.raises(read_cache.UserError, match=address):
            read_cache.train(words_store, tmp_path, network="probe", address=address, **RAY)
