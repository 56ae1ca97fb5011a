"""A server of five networks beside a tiny T5, in this process."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from read_cache.config import ServeConfig
from read_cache.live.predict import Predictor
from read_cache.networks.saved import find_networks, save_network
from read_cache.serving.app import create_app
from support.live import SMALL_NETWORKS, make_stores, network_of, saved_weights

Open = Callable[..., Iterator[TestClient]]


@pytest.fixture(scope="session")
def networks(tmp_path_factory, rows_folder) -> Path:
    """The folder of a network of each kind, for the task `words`."""
    folder = tmp_path_factory.mktemp("served")
    (store,) = make_stores(tmp_path_factory.mktemp("served-stores"), rows_folder, "words").values()
    for kind, settings in SMALL_NETWORKS.items():
        one = network_of(store, kind, **settings)
        save_network(folder / kind, one.record, saved_weights(one), one.calibration)
    return folder


@pytest.fixture(scope="session")
def rows(rows_folder) -> list[dict[str, str]]:
    """Some rows of the training split."""
    return [json.loads(line) for line in (rows_folder / "words" / "train.jsonl").read_text().splitlines()][:12]


@pytest.fixture(scope="session")
def predictor(networks, models) -> Predictor:
    return Predictor(str(models["tied"]), find_networks([networks]), ServeConfig(batch_size=4))


@pytest.fixture(scope="session")
def serving(predictor) -> Open:
    """A context manager that yields a client of a server with some settings; an exception in the server is raised."""

    @contextmanager
    def serving(token: str = "", **settings: object) -> Iterator[TestClient]:
        with TestClient(create_app(predictor, ServeConfig(**settings), token), "http://localhost") as client:
            yield client

    return serving


@pytest.fixture(scope="module")
def client(serving) -> Iterator[TestClient]:
    with serving() as client:
        yield client
