"""Side networks beside the frozen backbone: without dropout they become what the store makes of them."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import read_cache
from read_cache.config import Place, RunConfig
from read_cache.errors import UserError
from read_cache.live.attach import attach
from read_cache.methods.run import LiveSetup, live_methods
from read_cache.networks.base import NETWORKS
from read_cache.networks.saved import load_network
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from read_cache.training import checkpoint as checkpoint_module
from read_cache.training.from_store import FromStore
from read_cache.training.network_config import NetworkConfig
from read_cache.training.run import train_networks
from read_cache.watch import Watch
from support.backbones import folder_of
from support.live import load_for
from support.stores import make_store

RUN = RunConfig(epochs=2, batch_size=8, precision="fp32")
SETTINGS = {"read": {"hidden": 6, "cell": "gru"}, "ladder": {"reduction": 4}, "layer_probe": {"hidden": 5}, "probe": {}}


def config(kind: str, frozen: bool = True, **settings: object) -> NetworkConfig:
    own = live_methods()[f"frozen_{kind}"] if frozen else NETWORKS[kind].Config
    return NetworkConfig(
        kind=f"frozen_{kind}" if frozen else kind, settings=own(**SETTINGS[kind], **settings),
        head=HeadSettings(pooling="first"), learning_rate=1e-3, seed=4,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["tied", "bert", "llama"])
def store(request, tmp_path_factory, rows_folder) -> StoreReader:
    path = tmp_path_factory.mktemp("stores") / request.param
    return make_store(
        path, folder_of(request.param), str(rows_folder / "words.toml"), rows_folder / "words", dtype="fp32",
        max_source_length=32,
    )  # fmt: skip


@pytest.fixture(scope="module")
def words(words_store) -> StoreReader:
    """A bf16 store."""
    return StoreReader(words_store)


@pytest.mark.parametrize("kind", SETTINGS)
def test_without_dropout_it_is_training_from_the_store(store, kind, tmp_path) -> None:
    check_equal(store, kind, tmp_path)


@pytest.mark.parametrize(
    ("model", "positions", "kind"),
    [("llama", "readout", "read"), ("llama", "readout", "probe"), ("bert", "pooled", "layer_probe")],
)
def test_a_store_of_fewer_positions_gives_the_same_network(model, positions, kind, rows_folder, tmp_path) -> None:
    words, few = (str(rows_folder / "words.toml"), rows_folder / "words"), {"positions": positions, "attention": "none"}
    store = make_store(tmp_path / "store", folder_of(model), *words, dtype="fp32", max_source_length=32, **few)
    check_equal(store, kind, tmp_path)


def check_equal(store: StoreReader, kind: str, tmp_path: Path) -> None:
    """The losses and the trained weights are those of training from the store."""
    live = config(kind, backbone_dropout=0.0)
    (found,) = train_networks(LiveSetup(store.folder), [live], RUN, tmp_path / "live")
    (expected,) = train_networks(FromStore(store.folder), [config(kind, frozen=False)], RUN, tmp_path / "cached")
    assert (found.kind, found.network, found.extraction) == (f"frozen_{kind}", live.name, None)
    for ours, theirs in zip(found.history, expected.history, strict=True):
        for name in ("train_loss", "validation_loss"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-5)
    weights, others = (load_file(Path(result.folder) / "model.safetensors") for result in (found, expected))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], atol=1e-5, rtol=1e-5, msg=name)


def test_dropout_of_the_backbone_is_drawn_again_after_a_kill(words, tmp_path, monkeypatch) -> None:
    (whole,) = train_networks(LiveSetup(words.folder), [config("read")], RUN, tmp_path / "whole")
    (none,) = train_networks(LiveSetup(words.folder), [config("read", backbone_dropout=0.0)], RUN, tmp_path / "none")
    assert whole.config["backbone_dropout"] == 0.1
    assert whole.history[0].train_loss != pytest.approx(none.history[0].train_loss, abs=1e-4)

    def kill(task: str, done: int, total: int) -> None:
        if done == 7:
            raise RuntimeError("killed")

    monkeypatch.setattr(checkpoint_module, "SAVE_EVERY", 0.0)
    killed = tmp_path / "killed"
    with pytest.raises(RuntimeError, match="killed"):
        train_networks(LiveSetup(words.folder), [config("read")], RUN, killed, watch=Watch(progress=kill))
    (continued,) = train_networks(LiveSetup(words.folder), [config("read")], RUN, killed)
    assert continued.history == whole.history
    name = "model.safetensors"
    assert (Path(continued.folder) / name).read_bytes() == (Path(whole.folder) / name).read_bytes()


def test_the_backbone_is_in_train_mode_for_training_alone(words) -> None:
    """One pass draws, one does not, and none of them trains or draws from the global random state."""
    state = torch.get_rng_state()
    prepared = LiveSetup(words.folder).prepare([config("read", backbone_dropout=0.5)], RUN, Place())
    train = prepared.splits["train"]
    first, again = (next(train.epoch(3, 0)) for _ in range(2))
    assert torch.equal(first.final, again.final)
    assert not torch.equal(next(train.epoch(3, 1)).final, next(train.epoch(4, 1)).final)
    plain = train.batch(first.targets.rows)
    assert not torch.allclose(plain.final, first.final, atol=1e-2)
    without = LiveSetup(words.folder).prepare([config("read", backbone_dropout=0.0)], RUN, Place()).splits["train"]
    assert torch.equal(plain.final, without.batch(first.targets.rows).final)
    assert not first.final.requires_grad
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("format", [{}, {"dtype": "int8", "attention_dtype": "uint8"}, {"rank": 8, "dtype": "int8"}])
def test_it_reads_what_a_store_of_any_format_holds(format, models, rows_folder, tmp_path) -> None:
    """Formats of a bf16 backbone: within the noise of its sums over other padding."""
    store = make_store(tmp_path, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words", **format)
    live = LiveSetup(store.folder).prepare([config("read", backbone_dropout=0.0)], RUN, Place()).splits["validation"]
    cached = FromStore(store.folder).prepare([config("read", frozen=False)], RUN, Place()).splits["validation"]
    for ours, theirs in zip(live.epoch(3, 1), cached.epoch(3, 1), strict=True):
        assert ours.targets.rows.tolist() == theirs.targets.rows.tolist()
        for name, stack in theirs.stacks.items():
            own, real = ours.stacks[name].whole_states(), stack.real
            torch.testing.assert_close(own[:, real], stack.whole_states()[:, real], atol=0.1, rtol=0.1)


def test_it_is_saved_as_a_side_network(words, tmp_path) -> None:
    own = {"backbone_dropout": [0, 0.1], **SETTINGS["read"]}
    results = read_cache.finetune(
        words.folder.path, tmp_path, method="frozen_read", epochs=1, batch_size=8, **own
    ).results
    assert len({result.network for result in results}) == 2
    for result in results:
        record = load_network(result.folder).record
        assert (record.kind, record.backbone_dropout) == ("read", result.config["backbone_dropout"])
    scores = {row["network"]: row["metric"] for row in read_cache.evaluate(words.folder.path, tmp_path)}
    assert scores == {result.network: result.test for result in results}
    rows = ["the old river", "a quiet town"]
    (attached,) = attach(load_for(words), results[0].folder).classify(rows).values()
    predicted = read_cache.predict(words.manifest.backbone.name, results[0].folder, rows)
    assert [row["label"] for row in predicted] == [one.label for one in attached]


def test_settings_are_those_of_the_network_and_the_backbones_dropout() -> None:
    settings = config("read").settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert (
        config("read", backbone_dropout=0.0).name
        == "frozen_read-gru-6-backbone_dropout=0-head.pooling=first-lr0.001-seed4"
    )
    with pytest.raises(UserError, match="backbone_dropout"):
        config("read", backbone_dropout=1.0)
    with pytest.raises(UserError, match="hidden"):
        live_methods()["frozen_read"](hidden=0)


def test_what_a_network_needs_is_asked_of_the_store(models, rows_folder, tmp_path) -> None:
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    store = make_store(tmp_path, models["tied"], *words, attention="none", max_examples=4)
    with pytest.raises(UserError, match="attention"):
        LiveSetup(store.folder).check([config("read", attention="mean")], store.manifest)
