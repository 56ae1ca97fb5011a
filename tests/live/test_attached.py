"""Networks beside a live backbone: the backbone's own outputs before training, and the store's afterwards."""

import dataclasses
import functools
import json

import pytest
import torch

import read_cache
from read_cache.errors import UserError
from read_cache.live.attached import Attached
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.networks.saved import TrainedNetwork
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from support.backbones import BERT_KINDS, bert_folder, folder_of
from support.live import (
    BF16_NOISE,
    FP32_NOISE,
    SMALL_NETWORKS,
    STORES,
    TEXTS,
    load,
    load_for,
    make_stores,
    network_of,
    stored_predictions,
    tokens,
)
from support.stores import make_store, plan_values
from support.tiny_t5 import KINDS


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    """Stores of two families: two tasks, an open target, and every format."""
    return make_stores(tmp_path_factory.mktemp("attach"), rows_folder, *STORES)


def test_rows(rows_folder, name: str) -> list[dict]:
    """The test rows of one of `STORES`."""
    folder = rows_folder / ("scores" if STORES[name][1] == "pairs" else "words")
    return [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]


test_rows.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def classified(stores, rows_folder):
    """By store: a network of every kind, and in one pass what they predict for the test rows."""

    @functools.cache
    def classified(name: str) -> tuple[dict[str, TrainedNetwork], dict[str, list]]:
        networks = {kind: network_of(stores[name], kind, **settings) for kind, settings in SMALL_NETWORKS.items()}
        attached = read_cache.attach(load_for(stores[name]), networks)
        return networks, attached.classify(test_rows(rows_folder, name))

    return classified


@pytest.fixture(scope="module")
def in_one_batch(tmp_path_factory, rows_folder):
    """By backbone: a bf16 store of the `words` task whose splits are one batch each, and the same of it."""

    @functools.cache
    def in_one_batch(backbone: str) -> tuple[StoreReader, dict[str, TrainedNetwork], dict[str, list]]:
        words, folder = rows_folder / "words", tmp_path_factory.mktemp("batch")
        large = {"max_source_length": 60, "part_tokens": 10**6, "batch_tokens": 10**6}
        store = make_store(folder, folder_of(backbone), str(rows_folder / "words.toml"), words, **large)
        networks = {kind: network_of(store, kind, **settings) for kind, settings in SMALL_NETWORKS.items()}
        rows = [json.loads(line) for line in (words / "test.jsonl").read_text().splitlines()]
        found = read_cache.attach(load_for(store), networks).classify(rows, batch_size=len(rows))
        return store, networks, found

    return in_one_batch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untrained_network_gives_the_own_outputs_of_a_t5_exactly(tmp_path, models, rows_folder, kind, dtype) -> None:
    format = "fp32" if dtype == torch.float32 else "bf16"
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    store = make_store(tmp_path / "s", models[kind], *words, dtype=format)
    model = load(models[kind], dtype)
    attached = read_cache.attach(model, [network_of(store, trained=False)])
    batch, decoder = tokens(models[kind]), torch.tensor([[0, 5, 9, 3]]).repeat(3, 1)
    (y,) = attached(**batch, decoder_input_ids=decoder).values()
    with torch.inference_mode():
        own = model(**batch, decoder_input_ids=decoder, use_cache=False, output_hidden_states=True)
    assert torch.equal(y, own.decoder_hidden_states[-1].float())
    assert torch.equal(attached.logits(y), own.logits)


@pytest.mark.parametrize("kind", BERT_KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untrained_network_gives_the_own_states_of_a_bert_exactly(tmp_path, rows_folder, kind, dtype) -> None:
    format = "fp32" if dtype == torch.float32 else "bf16"
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    store = make_store(tmp_path / "s", bert_folder(kind), *words, dtype=format, max_source_length=60)
    model, batch = load(bert_folder(kind), dtype), tokens(bert_folder(kind))
    attached = read_cache.attach(model, [network_of(store, trained=False)])
    (y,) = attached(**batch).values()
    with torch.inference_mode():
        assert torch.equal(y, model(**batch).last_hidden_state.float())
    with pytest.raises(UserError, match="no LM head"):
        attached.logits(y)


@pytest.mark.parametrize("kind", SMALL_NETWORKS)
@pytest.mark.parametrize("name", [name for name in STORES if name != "open"])
def test_predictions_are_those_of_the_store(stores, classified, name, kind) -> None:
    store, (networks, classes) = stores[name], classified(name)
    predicted, expected = stored_predictions(store, networks[kind])
    found = classes[kind]
    noise = FP32_NOISE if store.manifest.activations.compute_dtype == "fp32" else BF16_NOISE
    labels, is_score = store.manifest.task.labels, store.manifest.task.scores
    if expected.ndim == 2:
        shares = torch.tensor([list(one.probabilities.values()) for one in found])
        torch.testing.assert_close(shares, expected, atol=noise, rtol=0)
    else:
        torch.testing.assert_close(torch.tensor([one.value for one in found]), expected, atol=10 * noise, rtol=0)
        assert not any(one.probabilities for one in found)
    assert expected.std(0).max() > 10 * FP32_NOISE
    for one, value in zip(found, predicted.tolist(), strict=True):
        assert one.label in labels
        if not is_score:
            assert one.value is None
            assert one.label == labels[int(value)] or noise == BF16_NOISE
        elif one.value is not None:
            assert abs(float(one.label) - one.value) <= 0.1 + 1e-6


@pytest.mark.parametrize("pooling", ["mean", "first", "apart"])
def test_every_pooling_of_pairs_is_that_of_the_store(stores, rows_folder, pooling) -> None:
    store = stores["bert-pairs"]
    trained = network_of(store, head=HeadSettings(pooling=pooling))
    _, expected = stored_predictions(store, trained)
    attached = read_cache.attach(load_for(store), {"mine": trained})
    found = attached.classify(test_rows(rows_folder, "bert-pairs"), batch_size=4)["mine"]
    torch.testing.assert_close(torch.tensor([one.value for one in found]), expected, atol=10 * FP32_NOISE, rtol=0)
    assert expected.std() > 100 * FP32_NOISE


@pytest.mark.parametrize("kind", SMALL_NETWORKS)
@pytest.mark.parametrize("backbone", ["tied", *BERT_KINDS])
def test_evaluation_and_prediction_are_one_computation_in_bf16(in_one_batch, backbone, kind) -> None:
    """The same padded batch: all rows of the test split in one, in the store and in use."""
    store, networks, classes = in_one_batch(backbone)
    predicted, expected = stored_predictions(store, networks[kind], batch_size=100)
    found = classes[kind]
    shares = torch.tensor([list(one.probabilities.values()) for one in found])
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=0)
    assert [store.manifest.task.labels.index(one.label) for one in found] == predicted.tolist()


@pytest.mark.parametrize("kind", ["read", "read_matching", "ladder", "layer_probe"])
def test_states_over_a_decoders_prefix_are_those_of_the_store(stores, kind) -> None:
    """A target without a label set: the store holds the states along it."""
    store = stores["open"]
    trained = network_of(store, kind, **SMALL_NETWORKS[kind])
    split = store.split("validation")
    attached = read_cache.attach(load_for(store), {"mine": trained})
    for batch in SplitBatches(split, make_collator(store, raw=True), 4).in_order():
        with torch.inference_mode():
            expected = trained.network(batch)
        for row, stored in zip(batch.targets.rows.tolist(), expected, strict=True):
            ids = torch.from_numpy(plan_values(store, "validation", row, "encoder/token"))
            path = torch.from_numpy(plan_values(store, "validation", row, "decoder/token"))
            found = attached(ids[None], None, path[None])["mine"][0]
            torch.testing.assert_close(found, stored[: len(path)], atol=FP32_NOISE, rtol=FP32_NOISE)


def test_networks_of_several_tasks_kinds_and_formats_share_one_pass(stores, models) -> None:
    model = load(models["tied"])
    networks = {
        "words": network_of(stores["words"]),
        "wide": network_of(stores["words"], cell="rnn", hidden=12, initial_state="zero"),
        "alone": network_of(stores["words"], attention="none"),
        "heads": network_of(stores["heads"], cell="lstm", attention="heads"),
        "layers": network_of(stores["layers"]),
        "part": network_of(stores["words"], layers="2"),
        "scores": network_of(stores["scores"], hidden=7),
        "open": network_of(stores["open"], cell="lstm"),
        "matching": network_of(stores["words"], "read_matching", matching=4),
        "ladder": network_of(stores["words"], "ladder", reduction=2),
        "probe": network_of(stores["words"], "probe"),
        "trainable": network_of(stores["words"], head=HeadSettings(kind="trainable", pooling="first"), hidden=6),
    }
    attached, batch = read_cache.attach(model, networks), tokens(models["tied"])
    passes: list[str] = []
    model.encoder.register_forward_hook(lambda *_: passes.append("encoder"))
    model.decoder.register_forward_hook(lambda *_: passes.append("decoder"))
    names = [name for name in networks if name not in ("open", "scores")]  # these read other texts
    states, labels = attached(**batch), attached.classify(TEXTS, names)
    assert passes == ["encoder", "decoder"] * 2
    assert list(labels) == names
    for name, one in networks.items():
        alone = read_cache.attach(load(models["tied"]), {name: one})
        torch.testing.assert_close(alone(**batch)[name], states[name], atol=FP32_NOISE, rtol=FP32_NOISE)
        for one, other in zip(alone.classify(TEXTS)[name], labels[name], strict=True) if name in names else ():
            shares = list(other.probabilities.values())
            assert list(one.probabilities.values()) == pytest.approx(shares, abs=FP32_NOISE)
    assert len({tuple(y.flatten().tolist()) for y in states.values()}) == len(networks)


@pytest.mark.parametrize("name", ["words", "bert"])
def test_rows_are_classified_in_batches_of_like_length_and_answered_in_their_order(stores, name) -> None:
    model = load_for(stores[name])
    attached = read_cache.attach(model, {"mine": network_of(stores[name], "read_matching", matching=4)})
    alone = [attached.classify([text])["mine"][0] for text in TEXTS]
    seen: list[tuple[int, ...]] = []
    model.get_encoder().register_forward_hook(
        lambda module, given, options, out: seen.append(tuple(options["input_ids"].shape)), with_kwargs=True
    ) if name == "words" else model.register_forward_hook(
        lambda module, given, options, out: seen.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    together = attached.classify(TEXTS, batch_size=2)["mine"]
    assert [rows for rows, _ in seen] == [2, 1]
    assert seen[0][1] > seen[1][1], "the shortest is not padded to the longest"
    for one, other in zip(alone, together, strict=True):
        assert one.label == other.label
        assert list(other.probabilities.values()) == pytest.approx(list(one.probabilities.values()), abs=FP32_NOISE)
    with pytest.raises(UserError, match="batch_size is 0"):
        attached.classify(TEXTS, batch_size=0)


def test_bad_use_ends_in_one_message(stores, models) -> None:
    model, batch = load(models["tied"]), tokens(models["tied"])
    words, opened = network_of(stores["words"]), network_of(stores["open"])
    attached = read_cache.attach(model, {"words": words, "open": opened})
    only_open = read_cache.attach(model, {"open": opened})
    other = dataclasses.replace(words, record=words.record.replaced(tokenizer_digest="0" * 64))
    rounded = dataclasses.replace(words, record=words.record.replaced(compute_dtype="bf16"))
    bare = dataclasses.replace(network_of(stores["words"], "probe"), head_weights={})
    for call, message in (
        (lambda: attached.generate(**batch, network="nobody"), "'nobody'.*words, open"),
        (lambda: attached.classify(TEXTS, ["open"]), "open: open targets have no label set"),
        (lambda: only_open.classify(TEXTS), "open: open targets have no label set"),
        (lambda: attached.classify([]), "no rows"),
        (lambda: attached.classify("a river"), "found one row"),
        (lambda: attached.classify({"sentence": "a river"}), "found one row"),
        (lambda: attached.classify(TEXTS, "nobody"), "'nobody'"),
        (lambda: attached.classify([{"text": "a"}]), "row 0 .*'sentence'.*words.*text"),
        (lambda: attached.classify(["a river", "  "]), "row 1: the text is empty"),
        (lambda: read_cache.attach(model, {"other": other}).classify(TEXTS), "000000000000"),
        (lambda: read_cache.attach(model, {"mine": rounded}), "mine.*bf16.*fp32"),
        (lambda: read_cache.attach(model, {"mine": bare}), "probe-.*do not fit its head"),
        (lambda: Attached(attached.backbone, {"bert": network_of(stores["bert"])}), "was trained for backbone"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_a_row_of_two_texts_is_no_text(stores) -> None:
    attached = read_cache.attach(load_for(stores["scores"]), {"mine": network_of(stores["scores"])})
    with pytest.raises(UserError, match=r"row 0 has 1 text.*sentence1, sentence2"):
        attached.classify(["a river"])
