"""Padding beside a live backbone: on either side, by a mask of any kind, it changes nothing."""

import pytest
import torch

import read_cache
from read_cache.store.reader import StoreReader
from support.backbones import bert_folder
from support.live import (
    BF16_NOISE,
    FP32_NOISE,
    SMALL_NETWORKS,
    load,
    load_for,
    make_stores,
    network_of,
    tokens,
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    return make_stores(tmp_path_factory.mktemp("padding"), rows_folder, "words", "int8", "bert")


def real_states(y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The states of a decoder, or those of an encoder's real positions."""
    return y[mask.bool()] if y.shape[1] == mask.shape[1] else y.flatten(0, 1)


@pytest.mark.parametrize("name", ["words", "int8"])
@pytest.mark.parametrize("kind", SMALL_NETWORKS)
def test_padding_on_either_side_of_a_t5_changes_nothing(stores, models, name, kind) -> None:
    attached = read_cache.attach(
        load_for(stores[name]), {"mine": network_of(stores[name], kind, **SMALL_NETWORKS[kind])}
    )
    batch = tokens(models["tied"])
    together = real_states(attached(**batch)["mine"], batch["attention_mask"])
    alone = [attached(ids[real.bool()][None])["mine"][0] for ids, real in zip(*batch.values(), strict=True)]
    left = {name: values.clone() for name, values in batch.items()}
    for row, real in enumerate(batch["attention_mask"].sum(1).tolist()):
        left["input_ids"][row] = batch["input_ids"][row].roll(-real)
        left["attention_mask"][row] = batch["attention_mask"][row].roll(-real)
    noise = FP32_NOISE if name == "words" else BF16_NOISE * float(together.abs().max())
    torch.testing.assert_close(together, torch.cat(alone), atol=noise, rtol=noise)
    other = real_states(attached(**left)["mine"], left["attention_mask"])
    torch.testing.assert_close(together, other, atol=noise, rtol=noise)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_the_mask_may_be_of_any_kind(stores, models, dtype) -> None:
    attached = read_cache.attach(load_for(stores["words"]), {"mine": network_of(stores["words"])})
    batch = tokens(models["tied"])
    real = batch["attention_mask"].sum(1).tolist()
    rolled = {
        name: torch.stack([row.roll(len(row) - count) for row, count in zip(values, real, strict=True)])
        for name, values in batch.items()
    }
    assert min(real) < max(real)
    left = attached(rolled["input_ids"], rolled["attention_mask"].to(dtype))["mine"]
    torch.testing.assert_close(left, attached(**batch)["mine"], atol=FP32_NOISE, rtol=FP32_NOISE)


def test_padding_of_a_bert_changes_nothing(stores) -> None:
    folder = bert_folder("bert")
    networks = {kind: network_of(stores["bert"], kind, **settings) for kind, settings in SMALL_NETWORKS.items()}
    attached, batch = read_cache.attach(load(folder), networks), tokens(folder)
    together = attached(**batch)
    for row, real in enumerate(batch["attention_mask"].bool()):
        alone = attached(batch["input_ids"][row][real][None])
        for kind in SMALL_NETWORKS:
            torch.testing.assert_close(together[kind][row][real], alone[kind][0], atol=FP32_NOISE, rtol=FP32_NOISE)
