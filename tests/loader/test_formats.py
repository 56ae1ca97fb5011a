"""Smaller formats of a store: int8 states, principal components, uint8 attention, fewer layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from read_cache.config import RunConfig
from read_cache.extraction.calibrate import calibrate
from read_cache.extraction.stored import quantise_weights
from read_cache.layers import format_layers, parse_layers
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.store.reader import StoreReader
from read_cache.store.schema import Format
from read_cache.store.verify import verify_store
from support.stores import make_store, stored_values
from support.training import network, train_store, weights

FORMATS = {
    "whole": {},
    "int8": {"dtype": "int8"},
    "int8-uint8": {"dtype": "int8", "attention_dtype": "uint8"},
    "rank31": {"rank": 31},
    "rank8-int8": {"rank": 8, "dtype": "int8"},
    "layers": {"layers": "1"},
}


class Stores(dict[tuple[str, str], StoreReader]):
    """Small stores by family and format, each made when it is first asked for."""

    def __init__(self, folder: Path, t5: Path, bert: Path, rows: Path) -> None:
        self.folder, self.rows = folder, rows
        self.models = {"t5": (t5, "words.toml", "words"), "bert": (bert, "pairs.toml", "scores")}

    def __missing__(self, key: tuple[str, str]) -> StoreReader:
        model, task, rows = self.models[key[0]]
        path, settings = self.folder / "-".join(key), FORMATS[key[1]] | {"max_source_length": 40}
        self[key] = make_store(path, model, str(self.rows / task), self.rows / rows, **settings)
        return self[key]


@pytest.fixture(scope="module")
def stores(tmp_path_factory, models, bert, rows_folder) -> Stores:
    return Stores(tmp_path_factory.mktemp("formats"), models["tied"], bert, rows_folder)


def batches_of(store: StoreReader, layers: list[int] | None = None, raw: bool = False) -> list[Batch]:
    """The training split in the order of the store."""
    return list(SplitBatches(store.split("train"), make_collator(store, layers=layers, raw=raw), 8).in_order())


def relative_error(found: Batch, exact: Batch) -> float:
    """Of encoder states around their mean, real tokens only."""
    states = [b.stacks["encoder"].whole_states()[:, b.stacks["encoder"].real] for b in (found, exact)]
    centred = states[1] - states[1].mean(1, keepdim=True)
    return float((states[0] - states[1]).norm() / centred.norm())


@pytest.mark.parametrize("family", ["t5", "bert"])
@pytest.mark.parametrize(
    ("format", "bound"), [("int8", 0.03), ("int8-uint8", 0.03), ("rank31", 0.3), ("rank8-int8", 0.85)]
)
def test_states_come_back_within_their_formats_error(stores, family, format, bound) -> None:
    """31 of 32 components keep nearly everything of random states, 8 a good deal; int8 rounds to 1% of a deviation.

    What the head reads is whole in every format, and so are the stacks after the first.
    """
    found, exact = (batches_of(stores[family, name]) for name in (format, "whole"))
    errors = [relative_error(*pair) for pair in zip(found, exact, strict=True)]
    assert 0 < max(errors) < bound
    for one, other in zip(found, exact, strict=True):
        assert torch.equal(one.final, other.final)
        if family == "t5":
            assert torch.equal(one.stacks["decoder"].values, other.stacks["decoder"].values)


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_plain_zarr_and_the_schemas_formula_give_the_states(stores, family) -> None:
    """phi = rms (mean + deviation (scale stored)), and with components basisᵀ (scale stored), as schema.py says."""
    folder = stores[family, "whole"].folder.path
    exact = as_floats(zarr.open_group(f"{folder}/arrays.zarr", mode="r")["train/encoder/hidden"][...])
    for name, bound in (("int8", 0.03), ("rank31", 0.3)):
        root = zarr.open_group(f"{stores[family, name].folder.path}/arrays.zarr", mode="r")
        mean, deviation, scale = (root[f"calibration/{key}"][...][:, None] for key in ("mean", "deviation", "scale"))
        y = scale * as_floats(root["train/encoder/hidden"][...])
        if name == "rank31":
            y = np.einsum("lkd,ltk->ltd", root["calibration/basis"][...], y)
        phi = root["train/encoder/rms"][...][..., None] * (mean + deviation * y)
        used = np.abs(exact).sum((0, 2)) > 0
        error = np.linalg.norm((phi - exact)[:, used]) / np.linalg.norm(exact[:, used])
        assert error < bound


def as_floats(stored: np.ndarray) -> np.ndarray:
    """Stored values; the bits of bf16 as float32."""
    return (stored.astype(np.uint32) << 16).view(np.float32) if stored.dtype == np.uint16 else stored


def test_the_raw_output_of_the_last_block_follows_from_what_is_stored(stores) -> None:
    """hidden[last] / final_norm * raw_rms, as schema.py says; every other raw state is the stored one."""
    store = stores["t5", "whole"]
    plan = store.split("train").plan
    batch = batches_of(store, raw=True)[1]
    for name, stack in batch.stacks.items():
        for place, row in enumerate(batch.targets.rows.tolist()):
            n = int(plan[f"{name}/length"][row])
            hidden = as_floats(stored_values(store, "train", row, f"{name}/hidden"))
            raw_rms = stored_values(store, "train", row, f"{name}/raw_rms")[0]
            for index in range(len(hidden) - 1):
                assert np.array_equal(stack.raw_state(index)[place, :n].numpy(), hidden[index])
            expected = hidden[-1] / store.final_norm[name] * raw_rms[:, None]
            np.testing.assert_allclose(stack.raw_state(len(hidden) - 1)[place, :n].numpy(), expected, rtol=1e-5)


def test_raw_states_of_int8_have_their_root_mean_square(stores) -> None:
    for family in ("t5", "bert"):
        found, exact = (batches_of(stores[family, name], raw=True)[0] for name in ("int8", "whole"))
        for name, stack in exact.stacks.items():
            for index in range(len(stack.values)):
                a, b = (batch.stacks[name].raw_state(index)[stack.real] for batch in (found, exact))
                assert float((a - b).norm() / b.norm()) < 0.03


@given(st.floats(0, 1, width=32))
def test_uint8_keeps_small_weights_to_a_few_percent(weight) -> None:
    stored = int(quantise_weights(torch.tensor([weight]), "uint8")[0])
    step = 0.5 / 255 + 1e-6
    assert abs((stored / 255) ** 2 - weight) <= 2 * weight**0.5 * step + step**2


def test_principal_directions_are_those_of_the_largest_variance() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    states = rng.normal(size=(1, 4000, 2)) * [5.0, 2.0] @ axes[:2] + rng.normal(size=(1, 4000, 6)) * 0.01
    format = Format(dtype="bf16", attention="none", attention_dtype="fp16", rank=2, layers={"encoder": ()})
    calibration = calibrate(states.astype(np.float32), format)
    assert calibration.basis is not None
    basis = calibration.basis[0]
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-5)
    x = states[0] / np.sqrt((states[0] ** 2).mean(1, keepdims=True) + 1e-6)
    y = (x - calibration.mean[0]) / calibration.deviation[0]
    assert np.linalg.norm(y - y @ basis.T @ basis) < 0.15 * np.linalg.norm(y)
    lost = np.linalg.svd(y - y.mean(0), compute_uv=False)
    assert np.linalg.norm(y - y @ basis.T @ basis) == pytest.approx(np.linalg.norm(lost[2:]), rel=0.01)


def test_a_store_of_fewer_layers_trains_as_the_whole_store_read_in_those_layers(stores, tmp_path) -> None:
    run, results = RunConfig(epochs=2, batch_size=8), []
    for name, layers in (("whole", "1"), ("layers", "all")):
        store = stores["t5", name]
        assert list(verify_store(store)) == []
        chosen = network("read", cell="gru", hidden=8, layers=layers)
        results.append(train_store(store.folder.path, tmp_path / f"runs-{name}", [chosen], run)[0])
    whole, fewer = (weights(result) for result in results)
    assert results[0].history == results[1].history
    assert whole.keys() == fewer.keys()
    assert all(torch.equal(value, fewer[name]) for name, value in whole.items())
    [mean] = [value for name, value in whole.items() if "encoder" in name and name.endswith("mean_LD")]
    assert mean.shape[0] == 3  # the embeddings, layer 1, and the last


@given(st.sets(st.integers(1, 40), min_size=1))
def test_layers_are_read_as_they_are_written(layers) -> None:
    assert parse_layers(format_layers(tuple(sorted(layers)))) == tuple(sorted(layers))
