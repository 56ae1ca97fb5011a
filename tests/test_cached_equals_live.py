"""The promise of the cache: what a network sees, and learns, from a store is what it would from the live backbone."""

import itertools
import json

import numpy as np
import pytest
import torch

from conftest import KINDS, UNTIED, make_store
from live import label_log_probabilities, live_batch, load
from read_cache.extract.parts import length_batches
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.networks.config import CELLS, ReadConfig
from read_cache.networks.read import build_network
from read_cache.scoring.heads import Head
from read_cache.store.reader import StoreReader
from read_cache.train.grid import backbone_shape

FP32_NOISE = 1e-4  # one example alone against the same one in a padded batch: products are summed in another order
NETWORKS = [
    ReadConfig(cell, 16, recurrent, attention, aggregate, "embeddings" if attention != "none" else "zero")
    for cell, recurrent in itertools.product(CELLS, (True, False))
    for attention, aggregate in itertools.product(("mean", "heads", "none"), ("last", "mean"))
    if recurrent or attention != "none" or aggregate == "mean"
]  # fmt: skip


def source_ids(store: StoreReader, split: str, row: int) -> list[int]:
    """Encoder tokens of a place in the store."""
    plan = store.split(split).plan
    return plan["input_ids"][plan["token_offset"][row] :][: plan["length"][row]].tolist()


def node_values(store: StoreReader, split: str, row: int, name: str) -> list[int]:
    """A node array of a place in the store."""
    plan = store.split(split).plan
    return plan[name][plan["node_offset"][row] :][: plan["nodes"][row]].tolist()


@pytest.fixture(scope="module")
def stores(tmp_path_factory, models, rows_folder) -> dict[tuple[str, str], StoreReader]:
    """fp32 stores of the `words` task by kind of backbone and attention mode."""
    path = tmp_path_factory.mktemp("equal")
    return {
        (kind, attention): make_store(
            path / f"{kind}-{attention}", models[kind], str(rows_folder / "words.toml"), rows_folder / "words",
            dtype="fp32", attention=attention, batch_tokens=10**6,
        )
        for kind, attention in itertools.product(("tied", "untied"), ("mean", "heads", "none"))
    }  # fmt: skip


def both_losses(store, folder, config):
    """(loss, gradients) of one network on a part as the store holds it, and on the live backbone's same batch."""
    head = Head.of(store)
    model, _ = load(folder)
    split = store.split("train")
    part = split.read_part(0)
    length = split.plan["length"][part.examples]
    rows = (part.examples.start + np.argsort(-length, kind="stable")).tolist()  # the batch that was extracted
    assert len(set(length)) > 3
    batches = SplitBatches(split, make_collator(store), batch_size=len(rows))
    cached = batches.collator.batch(next(batches.padded_batches([np.array(rows)])))

    places = {int(token): place for place, token in enumerate(store.head[0])}
    targets = [[places[t] for t in node_values(store, "train", row, "node_target")] for row in rows]
    longest = max(map(len, targets))
    target = torch.tensor([t + [-1] * (longest - len(t)) for t in targets])
    live = live_batch(
        model,
        [source_ids(store, "train", row) for row in rows],
        [node_values(store, "train", row, "node_token") for row in rows],
        target,
        config.attention,
    )
    live = type(live)(**{**live.__dict__, "node_trie": cached.node_trie})
    found = []
    for batch in (cached, live):
        network = build_network(config, backbone_shape(store.manifest), seed=3)
        torch.nn.init.normal_(network.U, std=0.5, generator=torch.Generator().manual_seed(1))
        loss = head.loss(network(batch), batch)
        loss.backward()
        found.append((loss.item(), {name: p.grad for name, p in network.named_parameters()}))
    return found


@pytest.mark.parametrize("kind", ["tied", "untied"])
@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: f"{c.cell}-{c.recurrent}-{c.attention}-{c.aggregate}")
def test_loss_and_gradients_are_those_of_the_live_backbone(stores, models, kind, config) -> None:
    store = stores[kind, config.attention]
    (cached_loss, cached), (live_loss, live) = both_losses(store, models[kind], config)
    assert cached_loss == pytest.approx(live_loss, abs=1e-6)
    for name, gradient in live.items():
        if gradient is None:
            assert cached[name] is None
            continue
        assert gradient.abs().max() > 0 or "mixture" in name or "_h" in name or name.endswith((".B", ".b_h"))
        torch.testing.assert_close(cached[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["mean", "heads"])
def test_a_bf16_store_is_bit_for_bit_a_live_bf16_run(tmp_path, models, rows_folder, kind, attention) -> None:
    store = make_store(
        tmp_path / "s", models[kind], str(rows_folder / "words.toml"), rows_folder / "words", attention=attention
    )
    model, _ = load(models[kind], torch.bfloat16)
    split = store.split("train")
    for number in range(split.parts):
        part = split.read_part(number)
        rows = range(part.examples.start, part.examples.stop)
        for batch in length_batches(split.plan["length"][part.examples], store.manifest.batch_tokens):
            ids = [source_ids(store, "train", rows[i]) for i in batch]
            mask = torch.tensor([[1] * len(i) + [0] * (max(map(len, ids)) - len(i)) for i in ids])
            padded = torch.tensor([i + [0] * (max(map(len, ids)) - len(i)) for i in ids])
            with torch.inference_mode():
                out = model.encoder(padded, attention_mask=mask, output_hidden_states=True, output_attentions=True)
            for place, index in enumerate(batch):
                row = rows[index]
                length = int(split.plan["length"][row])
                start = int(split.plan["token_offset"][row]) - number * split.layout.sizes["token"]
                for state, hidden in enumerate(out.hidden_states):
                    stored = part.arrays["encoder/hidden"][state, start : start + length]
                    live = hidden[place, :length].view(torch.int16).numpy().view(np.uint16)
                    assert np.array_equal(stored, live), (row, state)
                start = int(split.plan["pair_offset"][row]) - number * split.layout.sizes["pair"]
                for layer, weights in enumerate(out.attentions):
                    kept = weights[place, :, :length, :length]
                    kept = (kept.float().mean(0) if attention == "mean" else kept).half().flatten(-2).numpy()
                    assert np.array_equal(part.arrays["encoder/attention"][layer, ..., start : start + length**2], kept)


def test_trie_nodes_are_those_of_each_labels_whole_sequence(stores, models) -> None:
    store = stores["untied", "mean"]
    model, tokenizer = load(models["untied"])
    labels = tokenizer(list(store.manifest.task.labels))["input_ids"]
    assert [tuple(ids) for ids in labels] == list(store.manifest.label_ids)
    trie, split = store.manifest.trie, store.split("validation")
    assert len(trie.prefixes) > 2
    part = split.read_part(0)
    for row in range(3):
        source = torch.tensor([source_ids(store, "validation", row)])
        start = int(split.plan["node_offset"][row])
        for label in labels:
            with torch.inference_mode():
                out = model(
                    input_ids=source, decoder_input_ids=torch.tensor([[0, *label[:-1]]]), output_hidden_states=True
                )
            for depth in range(len(label)):
                if tuple(label[:depth]) in trie.prefixes:
                    node = trie.prefixes.index(tuple(label[:depth]))
                    stored = part.arrays["decoder/hidden"][:, start + node]
                    live = np.stack([hidden[0, depth].numpy() for hidden in out.decoder_hidden_states])
                    np.testing.assert_allclose(stored, live, atol=FP32_NOISE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_untrained_network_predicts_as_the_backbone_does(tmp_path, models, rows_folder, kind) -> None:
    store = make_store(
        tmp_path / "s", models[kind], str(rows_folder / "words.toml"), rows_folder / "words", dtype="fp32"
    )
    model, tokenizer = load(models[kind])
    assert torch.equal(model.lm_head.weight, model.shared.weight) == (kind not in UNTIED)
    labels = tokenizer(list(store.manifest.task.labels))["input_ids"]
    head = Head.of(store)
    network = build_network(ReadConfig(hidden=16), backbone_shape(store.manifest), seed=0)
    found = []
    for batch in SplitBatches(store.split("test"), make_collator(store), 4).in_order():
        scores = head.scores(network(batch), batch)
        assert scores.probabilities is not None
        torch.testing.assert_close(scores.probabilities.sum(-1), torch.ones(len(batch.final)))
        found += scores.probabilities.detach().log().tolist()
    for row, logp in enumerate(found):
        live = label_log_probabilities(model, source_ids(store, "test", row), labels, start=0)
        np.testing.assert_allclose(logp, live, atol=FP32_NOISE)
        assert np.argmax(logp) == np.argmax(live)


def test_open_targets_hold_the_teacher_forced_path(tmp_path, models, rows_folder) -> None:
    store = make_store(
        tmp_path / "s", models["tied"], str(rows_folder / "open.toml"), rows_folder / "words", dtype="fp32"
    )
    model, tokenizer = load(models["tied"])
    row = json.loads((rows_folder / "words" / "validation.jsonl").read_text().splitlines()[0])
    split, head = store.split("validation"), Head.of(store)
    place = split.plan["example_id"].tolist().index(0)
    labels = torch.tensor([tokenizer(row["sentence"])["input_ids"]])
    with torch.inference_mode():
        live = model(input_ids=torch.tensor([tokenizer(f"words: {row['sentence']}")["input_ids"]]), labels=labels)
    batch = list(SplitBatches(split, make_collator(store), 100).in_order())
    losses = torch.cat([head.scores(b.final, b).loss for b in batch])
    assert float(losses[place]) / labels.shape[1] == pytest.approx(float(live.loss), abs=1e-5)
