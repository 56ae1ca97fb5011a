"""`read_cache.attach`: networks by name, from folders or loaded."""

import pytest
import torch

import read_cache
from read_cache.errors import UserError
from read_cache.networks.saved import save_network
from read_cache.store.reader import StoreReader
from support.live import TEXTS, load_for, make_stores, network_of, saved_weights
from support.processes import run_python


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    return make_stores(tmp_path_factory.mktemp("attach"), rows_folder, "words", "scores", "int8", "bert")


def save(folder, trained) -> None:
    save_network(folder, trained.record, saved_weights(trained), trained.calibration)


def test_a_folder_of_networks_is_attached_by_task_and_name(tmp_path, stores) -> None:
    for name in ("words", "scores"):
        save(tmp_path / name, network_of(stores[name]))
    model = load_for(stores["words"])
    attached = read_cache.attach(model, tmp_path)
    assert sorted(attached.networks) == ["pairs/read-gru", "words/read-gru"]
    with pytest.raises(UserError, match="two networks are called words/read-gru"):
        read_cache.attach(model, [tmp_path / "words", tmp_path])
    with pytest.raises(UserError, match="no network to attach"):
        read_cache.attach(model, [])
    with pytest.raises(UserError, match="no network at nowhere"):
        read_cache.attach(model, ["nowhere"])


@pytest.mark.parametrize("kind", ["read", "read_matching", "ladder", "layer_probe", "probe"])
@pytest.mark.parametrize("name", ["int8", "bert"])
def test_a_saved_network_is_what_it_was(tmp_path, stores, name, kind) -> None:
    settings = {"reduction": 2} if kind == "ladder" else {}
    trained = network_of(stores[name], kind, **settings)
    save(tmp_path / "one", trained)
    model = load_for(stores[name])
    attached = read_cache.attach(model, {"held": trained, "saved": tmp_path / "one"})
    found = attached.classify(TEXTS)
    assert found["held"] == found["saved"]


def test_weights_that_are_not_finite_are_refused(tmp_path, stores) -> None:
    trained = network_of(stores["bert"], "probe")
    torch.nn.init.constant_(trained.head_weights["out.weight"], float("nan"))
    save(tmp_path / "one", trained)
    with pytest.raises(UserError, match=r"not finite \(head.out.weight\)"):
        read_cache.attach(load_for(stores["bert"]), tmp_path)


def test_importing_costs_nothing_and_networks_load_without_the_backbones_library(tmp_path, stores) -> None:
    save(tmp_path, network_of(stores["int8"]))
    program = (
        "import sys, read_cache\n"
        "assert not {'torch', 'transformers', 'zarr', 'numpy'} & set(sys.modules)\n"
        "sys.modules['transformers'] = sys.modules['datasets'] = None\n"
        "saved = [read_cache.load_network(sys.argv[1]) for again in range(2)][1]\n"
        "print(saved.record.name, saved.calibration is not None, 'read_cache.extraction' in sys.modules)\n"
        "assert not hasattr(read_cache, 'nothing')\n"
    )
    done = run_python(program, tmp_path)
    assert done.stdout == "read-gru True False\n", done.stderr
