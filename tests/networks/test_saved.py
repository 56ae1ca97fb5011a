"""Trained networks on disk: complete or absent, read back as they were, damage named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.networks.saved import (
    HEAD,
    NETWORK,
    NetworkRecord,
    find_networks,
    load_network,
    save_network,
    told_apart,
)
from read_cache.settings import parse
from read_cache.store.reader import StoreReader
from support.spoil import cut
from support.stores import make_store
from support.training import network, train_store

KINDS = ("read", "read_matching", "ladder", "side_tuning", "layer_probe", "probe")


@pytest.fixture(scope="module", params=["words_store", "bert_store", "components"])
def trained(request, tmp_path_factory, models, rows_folder) -> tuple[StoreReader, dict[str, Path]]:
    """A store, and a folder of one network of each kind that was trained on it for an epoch."""
    out = tmp_path_factory.mktemp("trained")
    if request.param == "components":
        words = str(rows_folder / "words.toml"), rows_folder / "words"
        store = make_store(out / "store", models["tied"], *words, dtype="int8", rank=8)
    else:
        store = StoreReader(request.getfixturevalue(request.param))
    sizes = {
        "read": {"hidden": 4},
        "read_matching": {"hidden": 4, "matching": 4},
        "ladder": {"reduction": 4},
        "side_tuning": {"reduction": 4},
        "layer_probe": {"hidden": 4},
        "probe": {},
    }
    networks = [network(kind, learning_rate=5e-3, **sizes[kind]) for kind in KINDS]
    results = train_store(store.folder.path, out / "run", networks, RunConfig(epochs=1, batch_size=8))
    return store, {result.kind: Path(result.folder) for result in results}


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy of a READ network, to be spoilt."""
    return Path(shutil.copytree(trained[1]["read"], tmp_path / "network"))


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_as_it_was(trained, kind, tmp_path) -> None:
    store, folders = trained
    loaded = load_network(folders[kind])
    weights = load_file(folders[kind] / "model.safetensors")
    assert {name.partition(".")[0] + "." for name in weights} <= {NETWORK, HEAD}
    own = loaded.network.state_dict()
    assert own.keys() == {name.removeprefix(NETWORK) for name in weights if name.startswith(NETWORK)}
    assert all(torch.equal(value, weights[NETWORK + name]) for name, value in own.items())
    assert all(torch.equal(value, weights[HEAD + name]) for name, value in loaded.head_weights.items())
    assert not loaded.network.training
    record, manifest = loaded.record, store.manifest
    assert (record.kind, record.backbone, record.format) == (kind, manifest.backbone, manifest.format)
    assert record.activations_digest == manifest.activations_digest
    assert record.task_digest == manifest.task_digest
    assert (record.task, record.label_ids) == (manifest.task, manifest.label_ids)
    assert (loaded.calibration is not None) == manifest.format.calibrated
    save_network(tmp_path / "again", record, weights, loaded.calibration)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == {
        path.name: path.read_bytes() for path in folders[kind].iterdir()
    }


def test_its_repr_is_a_line_without_tensors(folder) -> None:
    loaded = load_network(folder)
    assert loaded.record.name in repr(loaded)
    assert "tensor" not in repr(loaded)
    assert len(repr(loaded).splitlines()) == 1


def test_a_record_of_a_later_version_and_of_an_earlier_one_opens(folder) -> None:
    """Fields that this version does not know are ignored; those that an earlier one lacked take their default."""
    expected, values = load_network(folder), json.loads((folder / "config.json").read_text())
    values |= {"version": 7, "poem": "…"}
    values["backbone"]["stacks"][0]["rotary"] = True
    values["task"]["prompt"] = "none"
    del values["version"], values["task"]["scores"]
    for name in ("post_norm", "segments", "final_norm"):
        if values["backbone"]["stacks"][0][name] is False:
            del values["backbone"]["stacks"][0][name]
    del values["config"]["recurrent"]
    (folder / "config.json").write_text(json.dumps(values))
    loaded = load_network(folder)
    assert loaded.record.backbone == expected.record.backbone
    assert loaded.network.config == expected.network.config


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value) -> None:
    """DEFECTS 3."""
    weights = load_file(folder / "model.safetensors")
    weights[f"{NETWORK}U"][0, 0] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=rf"{folder} .*not finite .*U"):
        load_network(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "cut", "empty", "noise"])
def test_a_damaged_folder_is_named(folder, name, how) -> None:
    path = folder / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": cut(path.read_bytes()), "empty": b"", "noise": b"\xff" * 64}[how])
    with pytest.raises(UserError, match=str(folder)) as told:
        load_network(folder)
    assert "\n" not in str(told.value)


def test_weights_of_another_shape_are_one_line(folder) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["config"]["hidden"] = 5
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="damaged") as told:
        load_network(folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [({"kind": "raed"}, "raed"), ({"config": {"hiden": 4}}, "hiden"), ({"config": []}, "config"),
     ({"model_type": "t5"}, "model")],
    ids=str,
)  # fmt: skip
def test_a_config_that_is_none_is_named(folder, changes, fact) -> None:
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=fact):
        load_network(folder)


def test_a_network_that_was_written_in_part_is_none(folder, monkeypatch) -> None:
    """config.json is written last, and taken away first."""
    loaded = load_network(folder)

    def full(*_: object) -> None:
        assert not (folder / "config.json").exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("read_cache.networks.saved.save_file", full)
    with pytest.raises(UserError, match=rf"{folder} cannot be written: No space left"):
        save_network(folder, loaded.record, load_file(folder / "model.safetensors"), loaded.calibration)
    with pytest.raises(UserError, match="no network at"):
        load_network(folder)
    assert not list(folder.glob("*.unfinished"))


def test_networks_below_folders_are_found(trained, tmp_path) -> None:
    _, folders = trained
    run = folders["read"].parent
    assert find_networks([run]) == sorted(folders.values())
    assert find_networks([folders["probe"], run]) == [
        folders["probe"],
        *sorted({*folders.values()} - {folders["probe"]}),
    ]
    with pytest.raises(UserError, match=str(tmp_path)):
        find_networks([tmp_path])


def test_a_name_that_is_too_long_is_refused() -> None:
    for name in ("y" * 300, "team/" + "y" * 300):
        with pytest.raises(UserError, match=f"no network at {name}"):
            find_networks([Path(name)])


def test_networks_of_one_name_are_told_apart_by_store_then_by_path() -> None:
    names, folders = ["a", "b", "b", "b"], ["x/s/a", "x/s/b", "x/t/b", "y/t/b"]
    assert told_apart(names, folders) == ["a", "s/b", "x/t/b", "y/t/b"]


def test_a_record_needs_what_names_its_network(trained) -> None:
    values = load_network(trained[1]["read"]).record.values()
    assert parse(NetworkRecord, values, "here") == load_network(trained[1]["read"]).record
    del values["kind"]
    with pytest.raises(UserError, match=r"here: kind is missing"):
        parse(NetworkRecord, values, "here")
