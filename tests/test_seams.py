"""A user adds a network, a method, a head, an engine and a backbone from outside the package, by the registries."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import read_cache
from read_cache.backbones import FAMILIES, open_backbone
from read_cache.engines import ENGINES
from read_cache.errors import UserError
from read_cache.methods.base import METHODS
from read_cache.networks.base import NETWORKS
from read_cache.scoring.choose import HEADS
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store
from support.outside import Biases, DistilBert, Linear, Processes, Smooth, distilbert_folder
from support.processes import contents
from support.stores import make_store

RUN = {"epochs": 2, "batch_size": 8, "lr": 0.01}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each; taken away afterwards."""
    for registry, name, added in (
        (NETWORKS, "smooth", Smooth),
        (METHODS, "biases", Biases),
        (HEADS, "linear", Linear),
        (ENGINES, "processes", Processes),
        (FAMILIES, "distilbert", DistilBert),
    ):
        monkeypatch.setitem(registry, name, added)


@pytest.fixture(scope="module")
def distil(tmp_path_factory) -> Path:
    return distilbert_folder(tmp_path_factory.mktemp("models") / "distil")


@pytest.fixture(scope="module")
def stores(tmp_path_factory, words_store, distil, rows_folder) -> dict[str, StoreReader]:
    """A store of T5, and one of the backbone from outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "distilbert", DistilBert)
        words = str(rows_folder / "words.toml"), rows_folder / "words"
        path = tmp_path_factory.mktemp("stores") / "distil"
        of_distil = make_store(path, distil, *words, max_source_length=40)
    return {"t5": StoreReader(words_store), "distil": of_distil}


@pytest.mark.parametrize("name", ["t5", "distil"])
def test_a_network(stores, tmp_path, name, models, distil) -> None:
    """Trained in a grid beside ours, saved, loaded, evaluated, and used beside the backbone."""
    store = stores[name]
    results = read_cache.train(
        store.folder.path, tmp_path, network=["smooth", "read", "probe"], hidden=4, steps=[1, 2], **RUN
    )
    kinds = [result.kind for result in results.results]
    assert kinds.count("smooth") == 2
    assert set(kinds) == {"smooth", "read", "probe"}
    smooth = [result for result in results.results if result.kind == "smooth"]
    assert [result.config["steps"] for result in smooth] == [1, 2]
    assert {f"smooth-{steps}-lr0.01-seed0" for steps in (1, 2)} == {result.network for result in smooth}
    found = {row["network"]: row["metric"] for row in read_cache.evaluate(store.folder.path, tmp_path)}
    for result in smooth:
        assert found[result.network] == result.test
        own = read_cache.load_network(result.folder).network
        assert isinstance(own, Smooth)
        assert own.U.weight.abs().sum() > 0
        assert own.mean.abs().sum() > 0
    model = models["tied"] if name == "t5" else distil
    predictions = read_cache.predict(str(model), smooth[0].folder, ["the old river", "a quiet town"])
    assert len(predictions) == 2
    again = read_cache.train(store.folder.path, tmp_path, network="smooth", steps=1, **RUN)
    assert again.results[0] == smooth[0]


def test_a_networks_own_settings_are_checked_by_name(stores, tmp_path) -> None:
    for settings, fact in (({"steps": 0}, "steps"), ({"stepps": 1}, "stepps")):
        with pytest.raises(UserError, match=fact):
            read_cache.train(stores["t5"].folder.path, tmp_path, network="smooth", **settings, **RUN)


def test_what_a_network_needs_is_asked_of_the_store(models, rows_folder, tmp_path) -> None:
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    store = make_store(tmp_path / "store", models["tied"], *words, attention="none", max_examples=4)
    with pytest.raises(UserError, match="attention"):
        read_cache.train(store.folder.path, tmp_path / "run", network="smooth", **RUN)


@pytest.mark.parametrize("name", ["t5", "distil"])
def test_a_method(stores, tmp_path, name) -> None:
    """Trained by the loop of side networks, beside a method of ours, and saved."""
    store = stores[name]
    targets = "q v" if name == "t5" else "q_lin v_lin"
    results = read_cache.finetune(store.folder.path, tmp_path, method=["biases", "lora"], targets=targets, **RUN)
    assert [result.kind for result in results.results] == ["biases", "lora"]
    own = results.results[0]
    trained = load_file(Path(own.folder) / "weights.safetensors")
    assert 0 < sum(weight.numel() for weight in trained.values()) <= own.parameters
    fresh = dict(open_backbone(store.manifest.backbone.name).module.named_parameters())
    assert any(not torch.equal(weight, fresh[name]) for name, weight in trained.items())


@pytest.mark.parametrize("name", ["t5", "distil"])
def test_a_head(stores, tmp_path, name) -> None:
    store = stores[name]
    results = read_cache.train(store.folder.path, tmp_path, network="read", hidden=4, head={"kind": "linear"}, **RUN)
    result = results.results[0]
    assert result.head["kind"] == "linear"
    assert set(read_cache.load_network(result.folder).head_weights) == {"out.weight", "out.bias"}
    assert [row["metric"] for row in read_cache.evaluate(store.folder.path, tmp_path)] == [result.test]


def test_an_engine_fills_a_store(models, rows_folder, words_store, tmp_path) -> None:
    """Two workers leave the bytes of one."""
    before = Processes.started
    store = read_cache.extract(
        str(models["tied"]), str(rows_folder / "words.toml"), tmp_path / "store", dataset=rows_folder / "words",
        part_tokens=200, batch_tokens=120, engine="processes",
    )  # fmt: skip
    assert Processes.started == before + 2
    assert contents(tmp_path / "store") == contents(words_store)
    assert list(verify_store(store)) == []


def test_an_engine_trains_groups_of_networks(words_store, tmp_path) -> None:
    """Each network's weights are those that one worker gives it."""
    before, found = Processes.started, []
    for engine in ("processes", "local"):
        settings = {"network": ["read", "probe"], "cell": "rnn", "hidden": [4, 6], "engine": engine}
        results = read_cache.train(words_store, tmp_path / engine, **settings, **RUN).results
        found.append({result.network: (result.history, contents(Path(result.folder))) for result in results})
    assert Processes.started == before + 2
    assert found[0] == found[1]
    assert len(found[0]) == 3


def test_an_unknown_engine_is_refused_by_name(words_store, tmp_path) -> None:
    with pytest.raises(UserError, match=r"'cluster'.*local"):
        read_cache.train(words_store, tmp_path, network="probe", engine="cluster", **RUN)


def test_a_backbone(stores, distil) -> None:
    """What is stored is what the model itself computes, and the spec tells its family."""
    store = stores["distil"]
    spec = store.manifest.backbone
    assert (spec.family, spec.language_model, [stack.name for stack in spec.stacks]) == (
        "distilbert",
        False,
        ["encoder"],
    )
    assert list(verify_store(store)) == []
    split, backbone = store.split("test"), open_backbone(str(distil), "bf16")
    start, length = int(split.plan["encoder/token_offset"][0]), int(split.plan["encoder/length"][0])
    ids = torch.from_numpy(split.plan["encoder/token"][start : start + length].astype(np.int64))[None]
    with torch.inference_mode():
        out = backbone.module(ids, output_hidden_states=True)
    stored = (split.read_part(0)["encoder/hidden"][:, :length].astype(np.uint32) << 16).view(np.float32)
    expected = torch.stack(out.hidden_states)[:, 0].float().numpy()
    np.testing.assert_allclose(stored, expected, atol=0.05, rtol=0.05)  # another batch rounds bf16 otherwise


def test_without_its_line_there_is_no_such_thing(monkeypatch, distil, words_store, tmp_path) -> None:
    for registry, name in ((FAMILIES, "distilbert"), (NETWORKS, "smooth"), (METHODS, "biases"), (HEADS, "linear")):
        monkeypatch.delitem(registry, name)
    with pytest.raises(UserError, match=r"distilbert.*t5"):
        open_backbone(str(distil))
    with pytest.raises(UserError, match=r"smooth.*read"):
        read_cache.train(words_store, tmp_path, network="smooth", **RUN)
    with pytest.raises(UserError, match=r"biases.*full"):
        read_cache.finetune(words_store, tmp_path, method="biases", **RUN)
    with pytest.raises(UserError, match=r"linear.*trainable"):
        read_cache.train(words_store, tmp_path, network="read", hidden=4, head={"kind": "linear"}, **RUN)
