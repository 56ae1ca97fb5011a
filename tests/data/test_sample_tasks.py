"""The bundled sample tasks with the bundled backbone: not solved by it, learnt by a READ network."""

import pytest

from read_cache.config import RunConfig
from read_cache.data import BUNDLED_BACKBONE
from read_cache.scoring.evaluator import baselines
from read_cache.tasks import SAMPLE_TASKS
from support.stores import make_store
from support.training import network, train_store


@pytest.mark.slow
@pytest.mark.parametrize("task", SAMPLE_TASKS)
def test_a_network_learns_what_the_backbone_alone_does_not_know(tmp_path, task) -> None:
    store = make_store(tmp_path / "store", BUNDLED_BACKBONE, task, None, part_tokens=8192, batch_tokens=4096)
    found = baselines(store)
    floor, untrained = found["majority class"]["test"], found["untrained backbone"]["test"]
    assert untrained < floor + 10
    chosen = network("read", learning_rate=1e-3, cell="gru", hidden=128)
    result = train_store(tmp_path / "store", tmp_path / "run", [chosen], RunConfig(epochs=12))[0]
    assert result.test > floor + 8


@pytest.mark.slow
def test_matching_learns_how_much_two_sentences_share(tmp_path) -> None:
    make_store(tmp_path / "store", BUNDLED_BACKBONE, "sample-similarity", None, part_tokens=8192, batch_tokens=4096)
    networks = [network(kind, learning_rate=1e-3, cell="gru", hidden=128) for kind in ("read", "read_matching")]
    run = RunConfig(epochs=6, batch_size=64)
    plain, matching = train_store(tmp_path / "store", tmp_path / "run", networks, run)
    assert matching.test > plain.test + 20
