"""Ensembles: one folder that averages what its members predict, from a store and beside a live backbone."""

import json

import pytest
import torch

import read_cache
from read_cache.errors import UserError
from read_cache.live.attached import Attached
from read_cache.networks.saved import TrainedNetwork, load_network, save_network
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from support.backbones import folder_of
from support.live import load_for, make_stores, network_of, saved_weights, stored_predictions

MEMBERS = {
    "words": [("read", {}, {"cell": "rnn"}), ("read", {}, {"cell": "gru", "layers": "1"}), ("layer_probe", {}, {})],
    "scores": [("read", {}, {"cell": "rnn"}), ("ladder", {}, {"reduction": 2})],
    "bert": [("read", {"pooling": "first"}, {"cell": "rnn"}), ("probe", {"width": 5}, {})],
    "bert-pairs": [("read", {"pooling": "apart"}, {}), ("layer_probe", {}, {})],
    "pooled": [("probe", {"pooling": "first"}, {}), ("layer_probe", {}, {})],
    "readout": [("read", {}, {"cell": "rnn"}), ("probe", {"pooling": "first"}, {})],
    "rank8": [("read", {}, {"cell": "rnn"}), ("read", {}, {"cell": "gru"})],
}
"""By store: kind, settings of the head, settings of each member."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    return make_stores(tmp_path_factory.mktemp("ensembles"), rows_folder, *MEMBERS, "open")


def save(trained: TrainedNetwork, folder, **changes):
    save_network(folder, trained.record.replaced(**changes), saved_weights(trained), trained.calibration)
    return folder


@pytest.fixture
def members(stores, tmp_path):
    """A function that returns the members on a store, and their folders."""

    def make(name: str):
        trained = [
            network_of(stores[name], kind, head=HeadSettings(**head), **settings)
            for kind, head, settings in MEMBERS[name]
        ]
        scores = [{"validation": 10.0 * index, "parameters": 7} for index in range(len(trained))]
        return trained, [
            save(one, tmp_path / f"m{index}", name=f"m{index}", scores=own)
            for index, (one, own) in enumerate(zip(trained, scores, strict=True))
        ]

    return make


@pytest.mark.parametrize("name", MEMBERS)
def test_it_averages_probabilities_or_scores(stores, members, tmp_path, name) -> None:
    store, (trained, folders) = stores[name], members(name)
    assert read_cache.ensemble(folders, tmp_path / "all") == [folder.name for folder in folders]
    expected = torch.stack([stored_predictions(store, one)[1] for one in trained]).mean(0)
    assert not torch.equal(expected, stored_predictions(store, trained[0])[1])
    saved = load_network(tmp_path / "all")
    assert saved.record.scores["parameters"] == 7 * len(trained)
    predicted, shares = stored_predictions(store, saved)
    assert torch.allclose(shares, expected, atol=1e-6)
    if name != "bert-pairs":
        labels = [
            float(label) if store.manifest.task.scores else i for i, label in enumerate(store.manifest.task.labels)
        ]
        assert predicted.tolist() == [labels[index] for index in expected.argmax(-1).tolist()]
    (row,) = read_cache.evaluate(store, tmp_path / "all")
    assert (row["kind"], row["network"]) == ("ensemble", "all")
    gold = torch.from_numpy(store.split("test").plan["label"])[store.split("test").plan["example_id"].argsort()]
    if store.manifest.task.metric == "accuracy":
        assert row["metric"] == pytest.approx(100 * (expected.argmax(-1) == gold).float().mean().item(), abs=1e-4)
        nll = -expected.gather(1, gold[:, None].long()).log().mean().item()
        assert row["loss"] == pytest.approx(nll, rel=1e-5)


@pytest.mark.parametrize("name", ["words", "bert-pairs"])
def test_attached_it_predicts_what_it_predicts_from_the_store(stores, members, tmp_path, rows_folder, name) -> None:
    store = stores[name]
    read_cache.ensemble(members(name)[1], tmp_path / "all")
    attached = read_cache.attach(load_for(store), tmp_path / "all")
    assert isinstance(attached, Attached)
    folder = rows_folder / ("scores" if name == "bert-pairs" else "words")
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    (found,) = attached.classify(rows).values()
    predicted, shares = stored_predictions(store, load_network(tmp_path / "all"))
    if name == "bert-pairs":
        assert [one.value for one in found] == pytest.approx(predicted.tolist(), abs=1e-4)
        return
    live = torch.tensor([list(one.probabilities.values()) for one in found])
    assert torch.allclose(live, shares, atol=1e-5)
    with pytest.raises(UserError, match="all averages the predictions"):
        attached.generate(torch.tensor([[1]]), network=next(iter(attached.networks)))
    (line,) = read_cache.predict(str(folder_of("tied")), tmp_path / "all", [rows[0]])
    assert line["label"] == found[0].label


def test_top_takes_the_best_on_validation(members, tmp_path) -> None:
    trained, folders = members("words")
    assert read_cache.ensemble(folders, tmp_path / "all", top=2) == ["m2", "m1"]
    metrics = ((-5.0, 1.0), (None, 0.0), (-5.0, 0.5))
    for one, folder, (metric, loss) in zip(trained, folders, metrics, strict=True):
        save(one, folder, name=folder.name, scores={"validation": metric, "validation_loss": loss})
    assert read_cache.ensemble(folders, tmp_path / "all", top=2) == ["m2", "m0"]


def test_a_member_of_some_layers_is_averaged_where_stacks_have_different_depths(stores, tmp_path) -> None:
    """The layers that one stack has and another has not."""
    store = stores["words"]
    depths = [stack.layers for stack in store.manifest.backbone.stacks]
    assert depths[0] != depths[1]
    folders = [save(network_of(store, cell=cell, layers="1"), tmp_path / cell) for cell in ("rnn", "gru")]
    read_cache.ensemble(folders, tmp_path / "all")
    assert len(read_cache.evaluate(store, [*folders, tmp_path / "all"])) == 3


def test_only_an_ensemble_is_replaced(members, tmp_path) -> None:
    """A trained network and a folder of results were overwritten."""
    folders, out = members("words")[1], tmp_path / "all"
    before = load_network(folders[2]).record
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.jsonl").touch()
    for folder in (folders[2], tmp_path / "run", tmp_path):
        with pytest.raises(UserError, match="not an ensemble's: choose another folder"):
            read_cache.ensemble(folders[:2], folder)
    assert load_network(folders[2]).record == before
    read_cache.ensemble(folders[:2], out)
    (out / "config.json").unlink()  # as after a kill
    read_cache.ensemble(folders[:2], out)
    assert read_cache.ensemble(folders, out) == ["m0", "m1", "m2"]
    assert len(load_network(out).record.config["members"]) == 3


def test_a_network_given_twice_counts_once(members, tmp_path) -> None:
    first, *_ = members("words")[1]
    assert read_cache.ensemble([first, first], tmp_path / "all") == ["m0"]


def test_what_cannot_be_averaged_is_refused(stores, members, tmp_path) -> None:
    words, folders = stores["words"], members("words")[1]
    probe = save(network_of(words, "probe"), tmp_path / "probe", name="probe")
    heads = [HeadSettings(), HeadSettings(kind="trainable", pooling="first")]
    scores = [
        save(network_of(stores["scores"], head=head), tmp_path / f"s{i}", name=f"s{i}") for i, head in enumerate(heads)
    ]
    with pytest.raises(UserError, match="s0 and s1 differ in kind of head"):
        read_cache.ensemble(scores, tmp_path / "all")
    with pytest.raises(UserError, match="m0 and probe differ in readout stack"):
        read_cache.ensemble([folders[0], probe], tmp_path / "all")
    other = save(network_of(stores["bert"]), tmp_path / "other", name="other")
    with pytest.raises(UserError, match="m0 and other differ in backbone"):
        read_cache.ensemble([folders[0], other], tmp_path / "all")
    with pytest.raises(UserError, match="top is 4, expected 1 to 3"):
        read_cache.ensemble(folders, tmp_path / "all", top=4)
    target = save(network_of(stores["open"]), tmp_path / "target")
    with pytest.raises(UserError, match="open target"):
        read_cache.ensemble(target, tmp_path / "all")
    read_cache.ensemble(folders, tmp_path / "nested")
    with pytest.raises(UserError, match="nested is an ensemble already"):
        read_cache.ensemble([tmp_path / "nested", folders[0]], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_anything_but_folders_is_refused(members, tmp_path) -> None:
    with pytest.raises(UserError, match=r"networks: .*Path.*expected folders"):
        read_cache.ensemble([3], tmp_path / "all")
