"""The bundled sample tasks with the bundled backbone: not solved by it, learnt by a READ network."""

import pytest

from conftest import make_store
from read_cache.data import BUNDLED_BACKBONE
from read_cache.networks.config import ReadConfig
from read_cache.scoring.baselines import majority, untrained
from read_cache.store.manifest import StoreFolder
from read_cache.tasks import SAMPLE_TASKS
from read_cache.train.grid import NetworkConfig, TrainConfig
from read_cache.train.run import train_store


@pytest.mark.slow
@pytest.mark.parametrize("task", SAMPLE_TASKS)
def test_a_network_learns_what_the_backbone_alone_does_not_know(tmp_path, task) -> None:
    store = make_store(tmp_path / "store", BUNDLED_BACKBONE, task, None, part_tokens=8192, batch_tokens=4096)
    test = store.split("test")
    floor = majority(test, store.split("train"))
    assert untrained(store, test) < floor + 10
    network = NetworkConfig(ReadConfig("gru", 128), learning_rate=1e-3)
    result = train_store(StoreFolder(tmp_path / "store"), tmp_path / "run", [network], TrainConfig(epochs=12))[0]
    assert result["test"] > floor + 8


@pytest.mark.slow
def test_matching_learns_how_much_two_sentences_share(tmp_path) -> None:
    make_store(tmp_path / "store", BUNDLED_BACKBONE, "sample-similarity", None, part_tokens=8192, batch_tokens=4096)
    networks = [NetworkConfig(ReadConfig("gru", 128, matching=width), learning_rate=1e-3) for width in (0, 64)]
    plain, matching = train_store(
        StoreFolder(tmp_path / "store"), tmp_path / "run", networks, TrainConfig(epochs=6, batch_size=64)
    )
    assert matching["test"] > plain["test"] + 20
