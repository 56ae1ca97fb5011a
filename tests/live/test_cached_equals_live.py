"""What a network sees, and learns, from a store is what it would from the live backbone."""

import functools
import itertools
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import read_cache
from read_cache.backbones import TokenBatch, open_backbone
from read_cache.errors import UserError
from read_cache.extraction.part import length_batches
from read_cache.live.formats import LiveFormat
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.networks.base import NetworkShape, check_needs
from read_cache.networks.ladder import Ladder
from read_cache.networks.read import ReadConfig
from read_cache.scoring.choose import store_head
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from support.backbones import BERT_KINDS, DECODERS, folder_of
from support.live import (
    FP32_NOISE,
    label_log_probabilities,
    load,
    network_of,
    reference_batch,
    stored_predictions,
)
from support.stores import make_store, open_split, plan_values
from support.tiny_t5 import KINDS, UNTIED

CELLS = get_args(ReadConfig.model_fields["cell"].annotation)
READS: list[dict[str, Any]] = [
    {
        "cell": cell, "recurrent": recurrent, "attention": attention, "aggregate": aggregate,
        "initial_state": "embeddings" if attention != "none" else "zero",
    }
    for cell, recurrent in itertools.product(CELLS, (True, False))
    for attention, aggregate in itertools.product(("mean", "heads", "none"), ("last", "mean"))
    if recurrent or attention != "none" or aggregate == "mean"
]  # fmt: skip
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("read", {}),
    ("read_matching", {"matching": 8, "embedding_gain": 2.0, "residual": 0.5}),
    ("ladder", {"reduction": 2, "feed_forward": 24}),
    ("ladder", {"reduction": 4, "merge_last": True}),
    ("side_tuning", {"reduction": 4}),
    ("layer_probe", {"hidden": 8}),
    ("probe", {}),
]
FAMILIES = ("tied", "untied", "bert", "roberta", *DECODERS)


def others_of(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the networks of OTHERS for a family; a ladder on a GPT-2 is refused."""
    return [other for other in OTHERS if (other[0], kind) != ("ladder", "gpt2")]


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder):
    """fp32 stores of the `words` task by kind of backbone and attention mode, made on first use."""
    made: dict[tuple[str, str], StoreReader] = {}

    def store(kind: str, attention: str) -> StoreReader:
        if (kind, attention) not in made:
            made[kind, attention] = make_store(
                tmp_path_factory.mktemp("equal"), folder_of(kind), str(rows_folder / "words.toml"),
                rows_folder / "words", dtype="fp32", attention=attention, positions="all", batch_tokens=10**6,
                max_source_length=60,
            )  # fmt: skip
        return made[kind, attention]

    return store


def stored_batch(store: StoreReader, split: str, rows: list[int], raw: bool = True) -> Batch:
    """Some rows as the store holds them."""
    batches = SplitBatches(open_split(store, split), make_collator(store, raw=raw), len(rows))
    return batches.collator.batch(next(batches.padded_batches([np.array(rows)])))


@functools.cache
def both_batches(store: StoreReader, folder: Path, attention: str) -> tuple[Batch, Batch]:
    """(a part as the store holds it, the live backbone's same batch)."""
    split = open_split(store, "train")
    examples = split.layout.examples(0)
    length = split.layout.length[examples]
    rows = (examples.start + np.argsort(-length, kind="stable")).tolist()  # the batch that was extracted
    assert len(set(length)) > 2
    cached = stored_batch(store, "train", rows)
    spec = store.manifest.backbone
    token_type = None
    if spec.stacks[0].segments:
        token_type = [plan_values(store, "train", row, "encoder/token_type") for row in rows]
    first, *others = (stack.name for stack in spec.stacks)
    live = reference_batch(
        load(folder),
        [plan_values(store, "train", row, f"{first}/token") for row in rows],
        [plan_values(store, "train", row, "decoder/token") for row in rows] if others else None,
        token_type,
        attention,
        cached.targets,
    )
    return cached, live


def both(store: StoreReader, folder: Path, kind: str, head: HeadSettings, **settings: Any):
    """[(y, loss, gradients)] of one network: on a part as the store holds it, and on the live backbone's same batch."""
    weights = None if store.head is None else torch.from_numpy(store.head[1])
    found = []
    for batch in both_batches(store, folder, settings.get("attention") or store.manifest.format.attention):
        trained = network_of(store, kind, head=head, **settings)
        made = store_head(head, store.manifest, weights, trained.network)
        made.load_state_dict(dict(trained.head_weights))
        y = trained.network(batch)
        loss = made.loss(y.float(), batch.targets)
        loss.backward()
        parameters = {**dict(trained.network.named_parameters()), **dict(made.named_parameters())}
        real = batch.targets.positions[trained.network.readout].real
        found.append((y[real], loss.item(), {name: p.grad for name, p in parameters.items()}))
    return found


def check_equal(found) -> None:
    (cached_y, cached_loss, cached), (live_y, live_loss, live) = found
    torch.testing.assert_close(cached_y, live_y, atol=1e-5, rtol=1e-5)
    assert cached_loss == pytest.approx(live_loss, abs=1e-5)
    assert any(gradient is not None for gradient in live.values())
    for name, gradient in live.items():
        if gradient is None:
            assert cached[name] is None
            continue
        small = ("mixture", "_h", "gates", ".B", ".b_h", ".key")
        assert gradient.abs().max() > 0 or any(part in name for part in small), name
        torch.testing.assert_close(cached[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["tied", "untied", "bert", "llama"])
@pytest.mark.parametrize("settings", READS, ids=lambda s: "-".join(str(value) for value in s.values()))
def test_reads_loss_and_gradients_are_those_of_the_live_backbone(stores, kind, settings) -> None:
    store = stores(kind, settings["attention"])
    check_equal(both(store, folder_of(kind), "read", HeadSettings(), **settings))


@pytest.mark.parametrize(
    ("kind", "network", "settings"),
    [(kind, *other) for kind in FAMILIES for other in others_of(kind)],
    ids=[f"{kind}-{network}-{settings}" for kind in FAMILIES for network, settings in others_of(kind)],
)
@pytest.mark.parametrize("attention", ["mean", "heads", "none"])
def test_every_kind_of_network_is_what_it_is_beside_the_live_backbone(
    stores, kind, attention, network, settings
) -> None:
    check_equal(both(stores(kind, attention), folder_of(kind), network, HeadSettings(pooling="first"), **settings))


def test_a_layer_norm_cannot_be_undone(stores) -> None:
    manifest = stores("gpt2", "none").manifest
    ladder = Ladder(Ladder.Config(reduction=2), NetworkShape.of(manifest.backbone, manifest.format))
    with pytest.raises(UserError, match="raw output"):
        check_needs(ladder, manifest.format, "the ladder", "the store")


@pytest.mark.parametrize("pooling", ["mean", "first", "apart"])
@pytest.mark.parametrize("kind", BERT_KINDS)
def test_every_pooling_and_a_regression(tmp_path, rows_folder, kind, pooling) -> None:
    store = make_store(
        tmp_path, folder_of(kind), str(rows_folder / "pairs.toml"), rows_folder / "scores", dtype="fp32",
        part_tokens=600, batch_tokens=10**6, max_source_length=60,
    )  # fmt: skip
    check_equal(both(store, folder_of(kind), "read", HeadSettings(pooling=pooling)))


@pytest.mark.parametrize("kind", [*KINDS, *BERT_KINDS, *DECODERS])
@pytest.mark.parametrize("format", [{}, {"attention": "heads"}, {"dtype": "int8", "rank": 8}], ids=str)
def test_in_bf16_the_same_padded_batch_is_the_same_bit_for_bit(tmp_path, rows_folder, kind, format) -> None:
    """Every split, so label trees too; every kind of network."""
    store = make_store(
        tmp_path, folder_of(kind), str(rows_folder / "words.toml"), rows_folder / "words", max_source_length=60,
        part_tokens=600, batch_tokens=300, **format,
    )  # fmt: skip
    manifest = store.manifest
    backbone = open_backbone(str(folder_of(kind)), "bf16")
    live_format = LiveFormat(backbone, manifest.format, store.calibration, attention=True, raw=True)
    head = HeadSettings(pooling="first")
    networks = [network_of(store, network, head=head, **settings).network for network, settings in others_of(kind)]
    for name in manifest.splits:
        split = open_split(store, name)
        for part in range(split.parts):
            examples = split.layout.examples(part)
            for indices in length_batches(split.layout.length[examples], manifest.provenance.batch_tokens):
                rows = [examples.start + index for index in indices]
                cached = stored_batch(store, name, rows)
                tokens = TokenBatch.of_plan(manifest.backbone, split.plan, rows, backbone.pad_token)
                with torch.inference_mode():
                    trace = backbone.forward(tokens, attention=True)
                    live = live_format.batch(live_format.arrays(trace), tokens.stacks)
                    for stack, batch in cached.stacks.items():
                        assert torch.equal(batch.values[:, batch.real], live.stacks[stack].values[:, batch.real])
                    for network in networks:
                        real = cached.targets.positions[network.readout].real
                        assert torch.equal(network(cached)[real], network(live)[real]), network.kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_untrained_network_predicts_as_the_backbone_does(tmp_path, models, rows_folder, kind) -> None:
    """From the store and beside the backbone: constrained decoding the long way gives the same probabilities."""
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    store = make_store(tmp_path, models[kind], *words, dtype="fp32")
    model, tokenizer = load(models[kind]), AutoTokenizer.from_pretrained(models[kind])
    assert torch.equal(model.lm_head.weight, model.shared.weight) == (kind not in UNTIED)
    labels = tokenizer(list(store.manifest.task.labels))["input_ids"]
    trained = network_of(store, trained=False)
    predicted, stored = stored_predictions(store, trained)
    torch.testing.assert_close(stored.sum(-1), torch.ones(len(stored)))
    rows = [json.loads(line) for line in (rows_folder / "words" / "test.jsonl").read_text().splitlines()]
    found = read_cache.attach(model, {"mine": trained}).classify(rows)["mine"]
    for row, shares, best, one in zip(rows, stored.log().tolist(), predicted.tolist(), found, strict=True):
        source = tokenizer(f"words: {row['sentence']}")["input_ids"]
        live = label_log_probabilities(model, source, labels, start=0)
        np.testing.assert_allclose(shares, live, atol=FP32_NOISE)
        np.testing.assert_allclose(np.log(list(one.probabilities.values())), live, atol=FP32_NOISE)
        assert np.argmax(live) == best == store.manifest.task.labels.index(one.label)


def test_open_targets_hold_the_teacher_forced_path(tmp_path, models, rows_folder) -> None:
    words = str(rows_folder / "open.toml"), rows_folder / "words"
    store = make_store(tmp_path / "s", models["tied"], *words, dtype="fp32")
    model, tokenizer = load(models["tied"]), AutoTokenizer.from_pretrained(models["tied"])
    rows = [json.loads(line) for line in (rows_folder / "words" / "validation.jsonl").read_text().splitlines()]
    assert store.head is not None
    trained = network_of(store, trained=False)
    head = store_head(HeadSettings(), store.manifest, torch.from_numpy(store.head[1]), trained.network)
    split = store.split("validation")
    batches = list(SplitBatches(split, make_collator(store), 100).in_order())
    losses = torch.cat([head.scores(batch.final, batch.targets).loss for batch in batches])
    for row, loss in zip(split.plan["example_id"].tolist(), losses.tolist(), strict=True):
        text = rows[row]["sentence"]
        labels = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            live = model(input_ids=torch.tensor([tokenizer(f"words: {text}")["input_ids"]]), labels=labels)
        assert loss / labels.shape[1] == pytest.approx(float(live.loss), abs=1e-5)
