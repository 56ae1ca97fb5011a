"""Live methods before training: exactly the backbone; what trains, what is drawn, and what a folder holds."""

import dataclasses
from pathlib import Path

import numpy as np
import peft
import pytest
import torch

from read_cache.backbones import open_backbone
from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.methods.base import LiveBatch, LiveMethod, build_method, find_method
from read_cache.methods.batches import TokenBatches
from read_cache.methods.run import method_head, store_backbone
from read_cache.scoring.evaluator import evaluate, score_batch
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from support.backbones import folder_of
from support.stores import make_store

KINDS = ("full", "lora", "ia3", "bitfit", "adapter", "safe")
TOLERANCE = {"bitfit": 1e-5, "adapter": 5e-2, "safe": 5e-2}
"""Of untrained states: a linear layer with a bias rounds in another order, and adapters start near the identity."""
LORA_WIDTHS = {
    "t5": 2 * (3 + 2 + 2) * (32 + 32),
    "bert": 2 * 3 * (32 + 32),
    "llama": 3 * (64 + 32 + 16),
    "gpt2": 3 * 128,
}
"""Inputs and outputs of the queries and values of 3 encoder and 2 decoder layers with cross-attention, or 3 layers."""


@pytest.fixture(scope="module", params=["tied", "untied", "bert", "llama", "gpt2"])
def store(request, tmp_path_factory, rows_folder) -> StoreReader:
    """An exact store of ragged sentences whose labels make a trie of several nodes."""
    path = tmp_path_factory.mktemp("stores") / request.param
    settings = {"dtype": "fp32", "max_source_length": 32}
    task, rows = str(rows_folder / "words.toml"), rows_folder / "words"
    return make_store(path, folder_of(request.param), task, rows, **settings)


def method(kind: str, store: StoreReader, **settings: object) -> LiveMethod:
    return build_method(kind, find_method(kind).Config(**settings), store_backbone(store.manifest), seed=3)


def first_batch(store: StoreReader, live: LiveMethod, split: str = "train") -> LiveBatch:
    return next(TokenBatches(store, split, live.backbone, batch_size=6).in_order())


def trained(live: LiveMethod) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in live.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_untrained_it_is_the_backbone(store, kind) -> None:
    live = method(kind, store)
    batch = first_batch(store, live)
    frozen = store_backbone(store.manifest).final(batch.tokens)
    assert (live(batch) - frozen).norm() <= TOLERANCE.get(kind, 0.0) * frozen.norm()


@pytest.mark.parametrize("kind", ["full", "lora", "bitfit"])
def test_untrained_it_scores_as_the_frozen_states_of_the_store(store, kind) -> None:
    live = method(kind, store)
    for split in ("validation", "test"):
        tokens = TokenBatches(store, split, live.backbone, batch_size=5)
        cached = SplitBatches(store.split(split), make_collator(store), batch_size=7)
        head = method_head(HeadSettings(), store, live, seed=1)
        (found,), (expected,) = evaluate([(live, head)], tokens), evaluate([(None, head)], cached)
        assert found.metric == expected.metric
        assert found.loss == pytest.approx(expected.loss, abs=TOLERANCE.get(kind, 1e-5))


@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_are_those_of_the_stores_activations(store, split) -> None:
    """An epoch has the same rows in the same order, with the same targets; every tensor of them."""
    live = TokenBatches(store, split, store_backbone(store.manifest), batch_size=6, window=2)
    cached = SplitBatches(store.split(split), make_collator(store), batch_size=6, window=2)
    pairs = list(zip(live.epoch(5, 1, start=1), cached.epoch(5, 1, start=1), strict=True))
    assert len(pairs) == len(live) - 1 == len(cached) - 1 > 0
    for tokens, batch in pairs:
        ours, theirs = tokens.targets, batch.targets
        assert ours.rows.tolist() == theirs.rows.tolist()
        for field in dataclasses.fields(ours):
            if isinstance(value := getattr(theirs, field.name), torch.Tensor):
                assert torch.equal(getattr(ours, field.name), value), field.name
        for name, positions in theirs.positions.items():
            assert torch.equal(ours.positions[name].real, positions.real)
            assert torch.equal(tokens.tokens.stacks[name].mask, positions.real)
            if positions.segment is not None:
                assert torch.equal(ours.positions[name].segment, positions.segment)


@pytest.mark.parametrize(("kind", "positions"), [("llama", "readout"), ("bert", "pooled")])
def test_batches_of_a_store_of_fewer_positions_hold_every_token(tmp_path, rows_folder, kind, positions) -> None:
    """A live method trains from any store."""
    task, rows = str(rows_folder / "words.toml"), rows_folder / "words"
    batches = []
    for name in ("all", positions):
        settings = {"dtype": "fp32", "attention": "none", "max_source_length": 40, "positions": name}
        small = make_store(tmp_path / name, folder_of(kind), task, rows, **settings)
        batches.append(list(TokenBatches(small, "test", store_backbone(small.manifest), batch_size=6).in_order()))
    for expected, found in zip(*batches, strict=True):
        (stack,) = expected.tokens.stacks
        assert torch.equal(found.tokens.stacks[stack].ids, expected.tokens.stacks[stack].ids)
        assert torch.equal(found.targets.positions[stack].real, expected.targets.positions[stack].real)
        for field in ("readout", "node_trie", "node_target") if kind == "llama" else ():
            assert torch.equal(getattr(found.targets, field), getattr(expected.targets, field)), field


def test_evaluation_goes_from_short_to_long_rows(store) -> None:
    live = TokenBatches(store, "validation", store_backbone(store.manifest), batch_size=5)
    rows = np.concatenate([batch.targets.rows for batch in live.in_order()])
    assert sorted(rows.tolist()) == list(range(12))
    assert (np.diff(live.split.layout.length[rows]) >= 0).all()


def test_full_trains_every_weight_and_the_head_reads_them(store) -> None:
    live, spec = method("full", store), store.manifest.backbone
    assert sum(weight.numel() for weight in trained(live).values()) == spec.parameters
    batch, head = first_batch(store, live), method_head(HeadSettings(dropout=0.0), store, live)
    head.loss(live(batch, torch.Generator().manual_seed(0)), batch.targets).backward()
    assert [name for name, weight in trained(live).items() if weight.grad is None] == []
    if spec.language_model:
        rows, before = live.head_rows(torch.from_numpy(store.head[0])), torch.from_numpy(store.head[1])
        assert torch.equal(rows(), before)
        weight = live.backbone.module.get_output_embeddings().weight
        with torch.no_grad():
            weight.mul_(2)
        assert torch.equal(rows(), 2 * before)


def test_lora_trains_its_own_weights_alone(store) -> None:
    live, spec = method("lora", store, rank=4), store.manifest.backbone
    weights = trained(live)
    assert sum(weight.numel() for weight in weights.values()) == LORA_WIDTHS[spec.family] * 4
    assert all("lora_" in name for name in weights)
    batch, head = first_batch(store, live), method_head(HeadSettings(), store, live)
    head.loss(live(batch, torch.Generator().manual_seed(0)), batch.targets).backward()
    assert all(weight.grad is not None for weight in weights.values())
    assert any(weight.grad.any() for weight in weights.values())
    assert all(weight.grad is None for weight in live.parameters() if not weight.requires_grad)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_dropout_is_drawn_from_the_generator_given(store, kind) -> None:
    live, state = method(kind, store, backbone_dropout=0.3), torch.get_rng_state()
    batch = first_batch(store, live)
    first, again, other = (live(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, live(batch))
    assert torch.equal(live(batch), live(batch))
    none = method(kind, store, backbone_dropout=0.0)
    assert torch.equal(none(batch, torch.Generator()), none(batch))
    assert torch.equal(state, torch.get_rng_state())


@torch.no_grad()
def test_loras_own_dropout(store) -> None:
    live = method("lora", store, backbone_dropout=0.0, dropout=0.5)
    for weight in trained(live).values():
        weight.normal_()
    batch = first_batch(store, live)
    assert not torch.allclose(live(batch, torch.Generator()), live(batch))


@pytest.mark.parametrize("kind", ["bitfit", "adapter", "safe"])
def test_every_trained_weight_has_a_gradient_and_is_saved(store, kind, tmp_path) -> None:
    live, settings = method(kind, store), HeadSettings(dropout=0.0)
    batch, head = first_batch(store, live), method_head(settings, store, live)
    head.loss(live(batch, torch.Generator().manual_seed(0)), batch.targets).backward()
    assert {name for name, weight in live.module.named_parameters() if weight.grad is not None} == {*live.trained}
    with torch.no_grad():
        for weight in trained(live).values():
            weight.normal_(std=0.1)
    live.save(tmp_path)
    loaded, untrained = (build_method(kind, live.config, store_backbone(store.manifest), seed=4) for _ in range(2))
    loaded.load(tmp_path)
    batch = first_batch(store, live, "test")
    new, old, other = (
        score_batch(one, method_head(settings, store, one), batch).probabilities for one in (loaded, live, untrained)
    )
    assert torch.allclose(new, old, atol=1e-6)
    assert not torch.allclose(other, old, atol=1e-3)


@torch.no_grad()
def test_a_bias_of_the_head_is_trained(small) -> None:
    live = method("bitfit", small)
    batch, head = first_batch(small, live, "test"), method_head(HeadSettings(), small, live)
    before = score_batch(live, head, batch).probabilities
    live.backbone.module.lm_head.bias[int(small.head[0][0])] += 100
    assert not torch.allclose(score_batch(live, head, batch).probabilities, before)


@torch.no_grad()
def test_adapters_change_what_sublayers_add(store) -> None:
    """Zero weights leave the backbone as it is; cross-attention has no adapter."""
    live = method("adapter", store, bottleneck=4)
    batch, frozen = first_batch(store, live), store_backbone(store.manifest)
    for adapter in live.adapters:
        adapter.up.weight.zero_()
    assert torch.equal(live(batch), frozen.final(batch.tokens))
    assert len(live.adapters) == 2 * sum(stack.layers for stack in live.backbone.stacks)
    added = torch.linspace(-1, 1, 32)
    live.adapters[-1].up.bias.copy_(added)
    last = frozen.blocks()[live.readout][-1].feed_forward
    last.register_forward_hook(lambda part, given, out: out + added)
    assert torch.allclose(live(batch), frozen.final(batch.tokens), atol=1e-5)


@torch.no_grad()
def test_a_lora_folder_is_one_of_peft(store, tmp_path) -> None:
    live = method("lora", store)
    for weight in trained(live).values():
        weight.normal_()
    live.save(tmp_path)
    batch, backbone = first_batch(store, live), store_backbone(store.manifest)
    before = backbone.final(batch.tokens)
    with pytest.warns(FutureWarning):  # peft calls what transformers is about to rename
        peft.PeftModel.from_pretrained(backbone.module, str(tmp_path)).eval()
    assert torch.equal(backbone.final(batch.tokens), live(batch))
    assert not torch.allclose(before, live(batch), atol=1e-2)


@torch.no_grad()
def test_a_full_folder_opens_as_a_backbone(store, tmp_path) -> None:
    live = method("full", store)
    for weight in live.parameters():
        weight.mul_(1.1)
    live.save(tmp_path)
    batch = first_batch(store, live)
    backbone = open_backbone(str(tmp_path))
    assert torch.equal(backbone.final(batch.tokens), live(batch))
    assert backbone.tokenizer_digest == live.backbone.tokenizer_digest
    assert backbone.digest != live.backbone.digest


@pytest.fixture(scope="module")
def small(models, rows_folder, tmp_path_factory) -> StoreReader:
    path = tmp_path_factory.mktemp("stores") / "small"
    return make_store(path, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")


def test_lora_with_other_targets(small) -> None:
    live = method("lora", small, targets="q k v o wo", rank=2)
    assert len(trained(live)) == 2 * (4 * 7 + 5)
    with pytest.raises(UserError, match="targets"):
        method("lora", small, targets="query")


def test_the_same_seed_gives_the_same_first_weights(small) -> None:
    state = torch.get_rng_state()
    first, again = (method("lora", small) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(trained(again)[name], weight) for name, weight in trained(first).items())


def test_an_unknown_method(small) -> None:
    with pytest.raises(UserError, match=r"'nothing' is unknown; known: full, .*lora, .*safe"):
        method("nothing", small)


@pytest.mark.parametrize(
    ("kind", "settings"), [("full", {"backbone_dropout": 1.0}), ("lora", {"rank": 0}), ("lora", {"dropout": -0.1})]
)
def test_bad_settings(kind, settings) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        find_method(kind).Config(**settings)


def test_another_backbone_than_the_stores_is_refused(tmp_path, models, rows_folder) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(models["tied"]).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    store = make_store(tmp_path / "store", model, str(rows_folder / "words.toml"), rows_folder / "words")
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    with pytest.raises(UserError, match="is not the one that filled the store"):
        store_backbone(store.manifest)
