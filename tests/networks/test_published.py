"""Networks on the hub: pushed with a card, taken by name, and what is refused."""

import dataclasses
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

import read_cache
from read_cache.errors import UserError
from read_cache.networks.saved import TrainedNetwork, load_network, save_network
from read_cache.store.reader import StoreReader
from support.hub import TOKEN, Hub
from support.hub_writes import check_refusals
from support.live import load_for, make_stores, network_of, saved_weights
from support.processes import run, run_python

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's upload of a file
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    return make_stores(tmp_path_factory.mktemp("published"), rows_folder, "words", "int8", "scores")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    """No folder has the name of a repository."""
    monkeypatch.chdir(tmp_path)


def save(trained: TrainedNetwork, folder: Path) -> Path:
    save_network(folder, trained.record, saved_weights(trained), trained.calibration)
    return folder


def changed(trained: TrainedNetwork, **changes: object) -> TrainedNetwork:
    """The same network with another record."""
    return dataclasses.replace(trained, record=trained.record.replaced(**changes))


def head(hub: Hub, name: str) -> dict[str, bytes]:
    repository = hub.repositories["models", name]
    return repository.commits[repository.branches["main"]]


def test_a_network_comes_back_as_it_was(stores, own_hub: Hub, tmp_path) -> None:
    """With its calibration; only its own files are fetched, in two passes."""
    trained = network_of(stores["int8"])
    folder = save(trained, tmp_path / "saved")
    assert load_network(folder).push_to_hub("team/read") == f"{own_hub.url}/team/read"
    files = head(own_hub, "team/read")
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert (
        str(Path(trained.record.backbone.name).parent).encode() not in files["config.json"]
    )  # a folder of this machine
    repository = own_hub.repositories["models", "team/read"]
    repository.commit(files | {"model.bin": b"pickled", "modeling.py": b"code"})
    loaded = read_cache.load_network("team/read")
    assert saved_weights(loaded).keys() == saved_weights(trained).keys()
    fetched = {path.name for path in Path(constants.HF_HUB_CACHE).rglob("snapshots/*/*")}
    assert fetched == {"config.json", "model.safetensors", "calibration.safetensors"}
    pinned = read_cache.load_network(f"team/read@{list(repository.commits)[1]}")  # the first is the hub's own
    assert pinned.record == loaded.record
    (calibrated,) = {path.read_bytes() for path in Path(constants.HF_HUB_CACHE).rglob("calibration.safetensors")}
    assert calibrated == (folder / "calibration.safetensors").read_bytes()
    assert not own_hub.unknown
    assert not own_hub.leaked


def test_the_card_has_what_the_hub_reads(stores, own_hub: Hub) -> None:
    trained = network_of(stores["words"])
    backbone = trained.record.backbone.replaced(name="google-t5/t5-base", revision=COMMIT)
    scores = {"validation": 81.234, "test": 79.5, "parameters": 1234}
    changed(trained, backbone=backbone, scores=scores).push_to_hub("team/read", private=True, license="apache-2.0")
    card = ModelCard(head(own_hub, "team/read")["README.md"].decode())
    assert (card.data.base_model, card.data.license, card.data.library_name) == (
        "google-t5/t5-base",
        "apache-2.0",
        "read-cache",
    )
    assert card.data.metrics == ["accuracy"]
    assert card.data.tags == ["read-cache", "side-network", "read"]
    found = [(one.dataset_name, one.dataset_split, one.metric_type, one.metric_value) for one in card.data.eval_results]
    assert found == [("words", "validation", "accuracy", 81.23), ("words", "test", "accuracy", 79.5)]
    assert 'read_cache.predict("google-t5/t5-base", "team/read", ["a text"])' in card.text
    assert "| 81.23 | 79.50 | 1,234 | 0.001 | 2 |" in card.text
    assert own_hub.repositories["models", "team/read"].token == TOKEN


def test_a_network_of_imported_states_keeps_the_model_that_they_were_imported_under(stores, own_hub: Hub) -> None:
    trained = network_of(stores["words"])
    backbone = trained.record.backbone.replaced(name="Org/some-model", revision="", family="imported")
    changed(trained, backbone=backbone).push_to_hub("team/read")
    assert read_cache.load_network("team/read").record.backbone.name == "Org/some-model"
    text = ModelCard(head(own_hub, "team/read")["README.md"].decode()).text
    assert 'read_cache.evaluate("STORE", "team/read")' in text
    assert "predict" not in text


def test_a_second_push_replaces_the_first(stores, own_hub: Hub) -> None:
    network_of(stores["int8"]).push_to_hub("team/one")
    repository, other = own_hub.repositories["models", "team/one"], "adapter_model.safetensors"
    repository.commit(head(own_hub, "team/one") | {other: b"of something else"})
    assert "calibration.safetensors" in head(own_hub, "team/one")
    network_of(stores["words"], "layer_probe").push_to_hub("team/one")
    assert "calibration.safetensors" not in head(own_hub, "team/one")
    assert read_cache.load_network("team/one").record.kind == "layer_probe"
    assert len(repository.commits) == 4  # with the first, which the hub makes
    assert other in head(own_hub, "team/one")


def test_a_name_is_taken_wherever_a_folder_is(stores, own_hub: Hub, tmp_path, monkeypatch, capsys) -> None:
    """By evaluate, predict, attach, ensemble and the command line; an ensemble is pushed like any network."""
    store = stores["words"]
    for cell in ("rnn", "gru"):
        changed(network_of(store, cell=cell), name=cell).push_to_hub(f"team/{cell}")
    names = ["team/rnn", "team/gru"]
    assert read_cache.ensemble(names, tmp_path / "both") == ["rnn", "gru"]
    read_cache.load_network(tmp_path / "both").push_to_hub("team/both", license="mit")
    card = ModelCard(head(own_hub, "team/both")["README.md"].decode())
    assert card.data.eval_results is None
    model, texts = store.manifest.backbone.name, ["the old river", "a quiet town"]
    by_name, by_folder = (read_cache.predict(model, where, texts) for where in ("team/both", tmp_path / "both"))
    assert by_name == by_folder
    assert {row["network"] for row in read_cache.evaluate(store, [*names, "team/both"])} == {"rnn", "gru", "both"}
    attached = read_cache.attach(load_for(store), {"mine": "team/rnn"})
    assert list(attached.networks) == ["mine"]
    assert list(read_cache.attach(load_for(store), "team/rnn").networks) == ["words/rnn"]
    words = ["predict", "--model", model, "--network", "team/rnn", "--json", *texts]
    code, stdout, _ = run(words, monkeypatch, capsys)
    assert code == 0
    assert stdout.count('"network": "rnn"') == 2


def test_it_loads_without_the_backbones_library(stores, own_hub: Hub, tmp_path) -> None:
    network_of(stores["words"]).push_to_hub("team/private", private=True)
    program = """
import sys
sys.modules["transformers"] = None
import read_cache
print(read_cache.load_network("team/private").record.kind)
"""
    environment = {"HF_ENDPOINT": own_hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done = run_python(program, **environment)
    assert done.stdout == "read\n", done.stderr


def test_what_is_refused(stores, own_hub: Hub, monkeypatch) -> None:
    own_hub.add("models", "team/model").commit({"config.json": b'{"model_type": "t5"}', "model.safetensors": b"big"})
    own_hub.add("models", "team/bare").commit({"README.md": b"Nothing yet."})
    own_hub.add("models", "other/private", "hf_other").commit({})
    own_hub.add("datasets", "team/rows").commit({"config.json": b"{}"})
    network = network_of(stores["words"])
    network.push_to_hub("team/read")
    network.push_to_hub("team/kept")
    kept = read_cache.load_network("team/kept")
    asked = {
        "team/none": "nothing of that name, or it is private",
        "team/rows": "nothing of that name, or it is private",
        "other/private": "nothing of that name, or it is private",
        "team/read@v1": "no revision 'v1'",
        "team/model": "holds no side network",
        "team/bare": "holds no side network",
        "none": "no network at none",
    }
    for name, fact in asked.items():
        with pytest.raises(UserError, match=fact):
            read_cache.load_network(name)
    assert not [line for line in own_hub.requests if line.endswith("team/model/resolve/main/model.safetensors")]
    for name, fact in {"other/read": "forbids it", "a/b/c": "Repo id", "team/re ad": "Repo id"}.items():
        with pytest.raises(UserError, match=fact):
            network.push_to_hub(name)
    check_refusals(lambda: network.push_to_hub("team/read"), monkeypatch)
    with pytest.raises(UserError, match="cannot be reached"):
        read_cache.load_network("team/none")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read_cache.load_network("team/kept").record == kept.record  # from the cache
