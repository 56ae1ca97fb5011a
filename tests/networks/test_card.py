"""A network's model card: scores, and the command that makes the same network again."""

import json
import re
import shlex
from pathlib import Path

import pytest

from read_cache.config import RunConfig
from read_cache.networks.saved import find_networks
from read_cache.store.reader import StoreReader
from support.processes import run as run_here
from support.training import network, train_store

NETWORKS = {
    "read": {"cell": "rnn", "hidden": 8},
    "read_matching": {"hidden": 8, "matching": 4},
    "ladder": {"reduction": 4},
    "layer_probe": {"hidden": 8},
    "probe": {},
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("store", ["words_store", "bert_store"])
def test_it_holds_the_command_that_makes_the_network_again(request, tmp_path, kind, store, monkeypatch, capsys) -> None:
    path: Path = request.getfixturevalue(store)
    run = RunConfig(epochs=2, batch_size=8)
    (result,) = train_store(path, tmp_path / "first", [network(kind, 5e-3, 1, **NETWORKS[kind])], run)
    folder = Path(result.folder)
    card = (folder / "README.md").read_text()
    manifest = StoreReader(path).manifest
    assert manifest.activations_digest in card
    assert manifest.backbone.digest in card
    assert f"| validation | {result.validation:.2f} | {result.best_epoch} |" in card
    assert f"| test | {result.test:.2f} | {result.best_epoch} |" in card
    assert re.search(r"with read-cache [\d.]+, torch \d", card)
    command = shlex.split(next(line for line in card.splitlines() if "read-cache train" in line))
    places = {"STORE": path, "OUT": tmp_path / "again"}
    code, _, err = run_here([places.get(word, word) for word in command[1:]], monkeypatch, capsys)
    assert code == 0, err
    (again,) = find_networks([tmp_path / "again"])
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    records = [json.loads((place / "config.json").read_text()) for place in (folder, again)]
    assert records[0] | {"name": ""} == records[1] | {"name": ""}
