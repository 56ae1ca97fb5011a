"""Smaller forms of a store: int8 states, principal components, uint8 attention, fewer layers."""

import dataclasses
import json
import shutil
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from conftest import make_store, run_cli
from read_cache.cli.forms import forms
from read_cache.extract.calibrate import calibrate
from read_cache.extract.forward import quantise_weights
from read_cache.layers import format_layers, parse_layers
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.statistics import channel_statistics
from read_cache.networks.config import CELLS, ReadConfig
from read_cache.networks.read import build_network
from read_cache.networks.saved import load_network
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.store.schema import Form
from read_cache.store.verify import verify_store
from read_cache.train.grid import NetworkConfig, TrainConfig, backbone_shape
from read_cache.train.results import read_results
from read_cache.train.run import open_evaluator, train_store

FORMS = {
    "whole": {},
    "int8": {"dtype": "int8"},
    "int8-uint8": {"dtype": "int8", "attention_dtype": "uint8"},
    "rank31": {"rank": 31},
    "rank8-int8": {"rank": 8, "dtype": "int8"},
    "layers": {"layers": "1"},
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory, models, rows_folder) -> dict[str, StoreReader]:
    """The `words` task in every form; the encoder has three layers, the decoder two."""
    path = tmp_path_factory.mktemp("forms")
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    return {name: make_store(path / name, models["tied"], *words, **form) for name, form in FORMS.items()}


def batches_of(store: StoreReader, layers: list[int] | None = None) -> list[Batch]:
    """The training split in the order of the store."""
    return list(SplitBatches(store.split("train"), make_collator(store, layers=layers), 8).in_order())


def relative_error(found: Batch, exact: Batch) -> float:
    """Of encoder states around their mean, real tokens only."""
    states = [batch.encoder.whole_states()[:, batch.encoder.real] for batch in (found, exact)]
    centred = states[1] - states[1].mean(1, keepdim=True)
    return float((states[0] - states[1]).norm() / centred.norm())


@pytest.mark.parametrize(
    ("form", "bound"), [("int8", 0.03), ("int8-uint8", 0.03), ("rank31", 0.3), ("rank8-int8", 0.8)]
)
def test_states_come_back_within_their_forms_error(stores, form, bound) -> None:
    """31 of 32 components keep nearly everything of random states, 8 a good deal; int8 rounds to 1% of a deviation."""
    errors = [relative_error(*pair) for pair in zip(batches_of(stores[form]), batches_of(stores["whole"]), strict=True)]
    assert 0 < max(errors) < bound
    for found, exact in zip(batches_of(stores[form]), batches_of(stores["whole"]), strict=True):
        assert torch.equal(found.final, exact.final)
        assert torch.equal(found.decoder.values, exact.decoder.values)


def test_plain_zarr_and_the_schemas_formula_give_the_states(stores) -> None:
    """phi = rms (mean + deviation (scale stored)), and with components basisᵀ (scale stored), as schema.py says."""
    whole = zarr.open_group(Path(stores["whole"].folder.path) / "arrays.zarr", mode="r")["train/encoder/hidden"][...]
    exact = (whole.astype(np.uint32) << 16).view(np.float32)
    for name, bound in (("int8", 0.03), ("rank31", 0.3)):
        root = zarr.open_group(Path(stores[name].folder.path) / "arrays.zarr", mode="r")
        mean, deviation, scale = (root[f"calibration/{key}"][...][:, None] for key in ("mean", "deviation", "scale"))
        stored = root["train/encoder/hidden"][...]
        if stored.dtype == np.uint16:
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        y = scale * stored
        if name == "rank31":
            y = np.einsum("lkd,ltk->ltd", root["calibration/basis"][...], y)
        phi = root["train/encoder/rms"][...][..., None] * (mean + deviation * y)
        used = np.abs(exact).sum((0, 2)) > 0
        error = np.linalg.norm((phi - exact)[:, used]) / np.linalg.norm(exact[:, used])
        assert error < bound


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("initial_state", ["embeddings", "zero"])
def test_components_are_used_as_their_blown_up_states_would_be(stores, cell, recurrent, initial_state) -> None:
    store = stores["rank8-int8"]
    train = SplitBatches(store.split("train"), make_collator(store), 8)
    config = ReadConfig(cell, 8, recurrent, initial_state=initial_state)
    network = build_network(config, backbone_shape(store.manifest), seed=2)
    network.set_statistics(*channel_statistics(train))
    torch.nn.init.normal_(network.U, std=0.5, generator=torch.Generator().manual_seed(1))
    batch = next(train.in_order())
    assert batch.encoder.values.shape[-1] == 8
    blown_up = dataclasses.replace(batch.encoder, values=batch.encoder.whole_states(), projection=None)
    expected = network(dataclasses.replace(batch, encoder=blown_up))
    torch.testing.assert_close(network(batch), expected, atol=1e-4, rtol=1e-4)
    dropping = build_network(dataclasses.replace(config, dropout=0.3), backbone_shape(store.manifest), seed=2)
    dropping.set_statistics(*channel_statistics(train))
    torch.nn.init.normal_(dropping.U, std=0.5, generator=torch.Generator().manual_seed(1))
    found = [
        dropping(one, torch.Generator().manual_seed(5)) for one in (batch, dataclasses.replace(batch, encoder=blown_up))
    ]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[0], expected, atol=1e-2)


@given(st.floats(0, 1, width=32))
def test_uint8_keeps_small_weights_to_a_few_percent(weight) -> None:
    stored = int(quantise_weights(torch.tensor([weight]), "uint8")[0])
    step = 0.5 / 255 + 1e-6
    assert abs((stored / 255) ** 2 - weight) <= 2 * weight**0.5 * step + step**2


def test_principal_directions_are_those_of_the_largest_variance() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    states = rng.normal(size=(1, 4000, 2)) * [5.0, 2.0] @ axes[:2] + rng.normal(size=(1, 4000, 6)) * 0.01
    form = Form("bf16", "none", "fp16", rank=2, encoder_layers=(), decoder_layers=())
    basis = calibrate(states.astype(np.float32), form).basis
    assert basis is not None
    np.testing.assert_allclose(basis[0] @ basis[0].T, np.eye(2), atol=1e-5)


def test_a_store_of_fewer_layers_trains_as_the_whole_store_read_in_those_layers(tmp_path, models, rows_folder) -> None:
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    run, results = TrainConfig(epochs=2, batch_size=8), []
    for name, form, layers in (("whole", {}, "1"), ("fewer", {"layers": "1"}, "all")):
        store = make_store(tmp_path / name, models["tied"], *words, **form)
        assert list(verify_store(store)) == []
        network = NetworkConfig(ReadConfig("gru", 8, layers=layers))
        results.append(train_store(store.folder, tmp_path / f"runs-{name}", [network], run)[0])
    whole, fewer = (load_file(f"{result['folder']}/model.safetensors") for result in results)
    assert results[0]["history"] == results[1]["history"]
    assert whole.keys() == fewer.keys()
    assert all(torch.equal(value, fewer[name]) for name, value in whole.items())
    assert whole["encoder.mean_LD"].shape[0] == 3  # the embeddings, layer 1, and the last


@pytest.mark.parametrize("form", ["int8-uint8", "rank8-int8", "layers"])
def test_a_network_of_any_form_predicts_what_it_was_measured_at(stores, models, rows_folder, tmp_path, form) -> None:
    store = stores[form]
    network = NetworkConfig(ReadConfig("rnn", 8, layers="1" if form == "layers" else "all"), learning_rate=5e-3)
    result = train_store(store.folder, tmp_path / "run", [network], TrainConfig(epochs=4, batch_size=8))[0]
    rows = (rows_folder / "words" / "test.jsonl").read_text().splitlines()
    done = run_cli("predict", "--model", models["tied"], "--network", result["folder"], "--json", *rows)
    assert done.returncode == 0, done.stderr
    labels = store.manifest.task.labels
    right = [
        json.loads(line)["label"] == labels[json.loads(row)["label"]]
        for line, row in zip(done.stdout.splitlines(), rows, strict=True)
    ]
    assert 100 * sum(right) / len(right) == pytest.approx(result["test"])


@given(st.sets(st.integers(1, 40), min_size=1))
def test_layers_are_read_as_they_are_written(layers) -> None:
    assert parse_layers(format_layers(tuple(sorted(layers)))) == tuple(sorted(layers))


def test_the_table_of_forms_sets_each_beside_bf16(stores, tmp_path, capsys) -> None:
    """Networks trained on a form, and bf16's own evaluated on it; a form that nothing was trained on is left out."""
    run, seeds = tmp_path / "run", (0, 1, 2)
    networks = [NetworkConfig(ReadConfig("rnn", 8), 2e-2, seed) for seed in seeds]
    shown = {"bf16": "whole", "int8, uint8 attention": "int8-uint8", "int8, rank 8": "rank8-int8"}
    for name in (*shown.values(), "int8"):
        shutil.copytree(stores[name].folder.path, tmp_path / "stores" / name)
        if name != "int8":
            train_store(StoreFolder(tmp_path / "stores" / name), run, networks, TrainConfig(epochs=3))
    forms(tmp_path / "stores", run)
    heading, _, *lines = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    assert heading == ["form", "bytes a token", "words", "mean", "trained on it, against bf16", "bf16's on it"]
    rows = {name: values for name, *values in lines}
    assert list(rows) == ["bf16", "int8, uint8 attention", "int8, rank 8"]

    tests = {(result["store_digest"], result["seed"]): result["test"] for result in read_results(run)}
    of = {name: [tests[stores[folder].manifest.digest, seed] for seed in seeds] for name, folder in shown.items()}
    for name, (size, _, mean, trained, _) in rows.items():
        manifest = stores[shown[name]].manifest
        tokens = sum(split.tokens for split in manifest.splits.values())
        assert size == f"{sum(array_bytes(manifest).values()) / tokens:,.0f}"
        assert mean == f"{fmean(of[name]):.2f}"
        assert trained.split(" ± ")[0] == f"{fmean(of[name]) - fmean(of['bf16']):+.2f}"
    assert rows["bf16"][-1] == "+0.00 ± 0.00"
    lossy = open_evaluator(stores["rank8-int8"], [networks[0].read], "test")
    reference = [load_network(run / f"words-{stores['whole'].manifest.digest[:8]}" / one.name) for one in networks]
    moved = fmean(found.metric for found in lossy.evaluate([one.network for one in reference]))
    assert rows["int8, rank 8"][-1].split(" ± ")[0] == f"{moved - fmean(of['bf16']):+.2f}"
