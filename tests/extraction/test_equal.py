"""What a store holds is what the backbone computed, bit for bit in the same padded batch."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from read_cache.backbones import StackTrace
from read_cache.config import ExtractConfig
from read_cache.extraction.calibrate import encode_states
from read_cache.extraction.part import length_batches
from read_cache.extraction.stored import stored_arrays
from read_cache.loader.collate import calibration_tensors
from read_cache.store.spec import StackSpec
from support.backbones import BERT_KINDS, bert_folder
from support.operations import Operations
from support.stores import make_store, plan_values, stored_values
from support.tiny_t5 import KINDS

FP32_NOISE = 1e-4  # one example alone against the same one in a padded batch: products are summed in another order
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def bits(hidden: torch.Tensor) -> np.ndarray:
    """bfloat16 as uint16."""
    return hidden.contiguous().view(torch.int16).numpy().view(np.uint16)


def batches_of(store, split: str):
    """Examples of each batch that the backbone was run on, in the order of the store."""
    reader, tokens = store.split(split), store.manifest.provenance.batch_tokens
    for part in range(reader.parts):
        examples = reader.layout.examples(part)
        for batch in length_batches(reader.layout.length[examples], tokens):
            yield [examples.start + index for index in batch]


def padded(rows: list[np.ndarray], padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, mask) [rows, longest]."""
    longest = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return torch.tensor([[*row.tolist(), *[padding] * (longest - len(row))] for row in rows]), mask


def expected_weights(weights: torch.Tensor, attention: str) -> np.ndarray:
    """[(head,) to, from] of one example as a store holds them, in fp16."""
    return (weights.float().mean(0) if attention == "mean" else weights).half().numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["mean", "heads"])
def test_a_bf16_store_is_bit_for_bit_a_live_bf16_run_of_t5(tmp_path, models, rows_folder, kind, attention) -> None:
    store = make_store(
        tmp_path / "s", models[kind], str(rows_folder / "words.toml"), rows_folder / "words", attention=attention
    )
    model = AutoModelForSeq2SeqLM.from_pretrained(models[kind], dtype=torch.bfloat16, attn_implementation="eager")
    model.eval()
    raw = []
    for stack in (model.encoder, model.decoder):
        stack.final_layer_norm.register_forward_pre_hook(lambda module, given: raw.append(given[0]))
    for rows in batches_of(store, "train"):  # training rows hold one path each: rows of the decoder are examples
        ids, mask = padded([plan_values(store, "train", row, "encoder/token") for row in rows])
        nodes, node_mask = padded([plan_values(store, "train", row, "decoder/token") for row in rows])
        raw.clear()
        with torch.inference_mode():
            out = model(
                input_ids=ids, attention_mask=mask, decoder_input_ids=nodes, decoder_attention_mask=node_mask,
                output_hidden_states=True, output_attentions=True, use_cache=False,
            )  # fmt: skip
        states = {"encoder": out.encoder_hidden_states, "decoder": out.decoder_hidden_states}
        own = {"encoder": out.encoder_attentions, "decoder": out.decoder_attentions}
        for index, row in enumerate(rows):
            n, m = int(mask[index].sum()), int(node_mask[index].sum())
            for name, length, raw_last in zip(states, (n, m), raw, strict=True):
                stored = stored_values(store, "train", row, f"{name}/hidden")
                for state, hidden in enumerate(states[name]):
                    assert np.array_equal(stored[state], bits(hidden[index, :length])), (name, row, state)
                rms = (raw_last[index, :length].float().square().mean(-1) + 1e-6).sqrt().numpy()
                assert np.array_equal(stored_values(store, "train", row, f"{name}/raw_rms")[0], rms)
                stored = stored_values(store, "train", row, f"{name}/self_attention")
                for layer, weights in enumerate(own[name]):
                    kept = expected_weights(weights[index, :, :length, :length], attention)
                    if name == "decoder":  # row by row, the lower triangle alone
                        kept = np.concatenate([kept[..., to, : to + 1] for to in range(length)], axis=-1)
                    assert np.array_equal(stored[layer], kept.reshape(*kept.shape[: attention == "heads"], -1))
            stored = stored_values(store, "train", row, "decoder/cross_attention")
            for layer, weights in enumerate(out.cross_attentions):
                kept = expected_weights(weights[index, :, :m, :n], attention)
                assert np.array_equal(stored[layer], kept.reshape(*kept.shape[:-2], -1))


@pytest.mark.parametrize("kind", BERT_KINDS)
@pytest.mark.parametrize("attention", ["mean", "heads"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_store_is_bit_for_bit_a_live_run_of_bert(tmp_path, rows_folder, kind, attention, dtype) -> None:
    store = make_store(
        tmp_path / "s", bert_folder(kind), "sample-similarity", rows_folder / "scores", attention=attention,
        dtype=dtype, attention_dtype="fp16", max_source_length=60,
    )  # fmt: skip
    assert sorted(store.split("train").specs) == ["encoder/hidden", "encoder/self_attention"]
    model = AutoModel.from_pretrained(bert_folder(kind), dtype=DTYPES[dtype], attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(bert_folder(kind))
    texts = {
        split: [json.loads(line) for line in (rows_folder / "scores" / f"{split}.jsonl").read_text().splitlines()]
        for split in store.manifest.splits
    }
    for split in store.manifest.splits:
        plan = store.split(split).plan
        for rows in batches_of(store, split):
            raw = [texts[split][number] for number in plan["example_id"][rows]]
            pairs = [row["sentence1"] for row in raw], [row["sentence2"] for row in raw]
            inputs = tokenizer(*pairs, padding=True, truncation=True, max_length=60, return_tensors="pt")
            with torch.inference_mode():
                out = model(**inputs, output_hidden_states=True, output_attentions=True)
            encoding = tokenizer(*pairs, truncation=True, max_length=60)
            for index, row in enumerate(rows):
                n = int(inputs["attention_mask"][index].sum())
                assert plan_values(store, split, row, "encoder/token").tolist() == encoding["input_ids"][index]
                segment = [-1 if text is None else text for text in encoding.sequence_ids(index)]
                assert plan_values(store, split, row, "encoder/segment").tolist() == segment
                assert {0, 1} <= set(segment)
                if kind == "bert":
                    types = plan_values(store, split, row, "encoder/token_type").tolist()
                    assert types == encoding["token_type_ids"][index]
                stored = stored_values(store, split, row, "encoder/hidden")
                for state, hidden in enumerate(out.hidden_states):
                    live = hidden[index, :n].numpy() if dtype == "fp32" else bits(hidden[index, :n])
                    assert np.array_equal(stored[state], live), (row, state)
                stored = stored_values(store, split, row, "encoder/self_attention")
                for layer, weights in enumerate(out.attentions):
                    kept = expected_weights(weights[index, :, :n, :n], attention)
                    assert np.array_equal(stored[layer], kept.reshape(*kept.shape[:-2], -1))


def test_trie_nodes_are_those_of_each_labels_whole_sequence(tmp_path, models, rows_folder) -> None:
    store = make_store(
        tmp_path / "s", models["untied"], str(rows_folder / "words.toml"), rows_folder / "words", dtype="fp32"
    )
    model = AutoModelForSeq2SeqLM.from_pretrained(models["untied"], attn_implementation="eager").eval()
    labels = AutoTokenizer.from_pretrained(models["untied"])(list(store.manifest.task.labels))["input_ids"]
    assert [tuple(ids) for ids in labels] == list(store.manifest.label_ids)
    trie = store.manifest.trie
    assert len(trie.prefixes) > 2
    for row in range(3):
        source = torch.tensor(plan_values(store, "validation", row, "encoder/token")[None].astype(np.int64))
        nodes = plan_values(store, "validation", row, "decoder/parent")
        weights = stored_values(store, "validation", row, "decoder/self_attention")
        hidden = stored_values(store, "validation", row, "decoder/hidden")
        for label in labels:
            with torch.inference_mode():
                out = model(
                    input_ids=source, decoder_input_ids=torch.tensor([[0, *label[:-1]]]), output_hidden_states=True,
                    output_attentions=True,
                )  # fmt: skip
            path = [
                trie.prefixes.index(tuple(label[:d])) for d in range(len(label)) if tuple(label[:d]) in trie.prefixes
            ]
            for depth, node in enumerate(path):
                live = np.stack([state[0, depth].numpy() for state in out.decoder_hidden_states])
                np.testing.assert_allclose(hidden[:, node], live, atol=FP32_NOISE)
                to_node = weights[:, node * (node + 1) // 2 : (node + 1) * (node + 2) // 2]
                live = np.zeros((len(weights), node + 1))
                live[:, path[: depth + 1]] = np.stack(
                    [layer[0, :, depth, : depth + 1].mean(0).numpy() for layer in out.decoder_attentions]
                )
                np.testing.assert_allclose(to_node, live, atol=FP32_NOISE)
        assert len(nodes) == hidden.shape[1]


@pytest.mark.parametrize(
    "settings", [{"dtype": "int8"}, {"dtype": "bf16", "rank": 8}, {"dtype": "int8", "rank": 8, "layers": "2"}]
)
@pytest.mark.parametrize("kind", ["tied", "bert"])
def test_calibrated_stores(tmp_path, models, rows_folder, kind, settings) -> None:
    model = models[kind] if kind == "tied" else bert_folder(kind)
    task, rows = str(rows_folder / "words.toml"), rows_folder / "words"
    whole = make_store(tmp_path / "w", model, task, rows, max_source_length=60, layers=settings.get("layers", "all"))
    store = make_store(tmp_path / "s", model, task, rows, max_source_length=60, **settings)
    format, calibration = store.manifest.format, calibration_tensors(store.calibration, "cpu")
    assert ("encoder/final" in store.split("train").specs) == (kind == "bert")
    for row in range(5):
        exact = stored_values(whole, "train", row, "encoder/hidden")
        hidden = torch.from_numpy(exact.view(np.int16).copy()).view(torch.bfloat16)
        expected, rms = encode_states(hidden[:, None], calibration, format)
        stored = stored_values(store, "train", row, "encoder/hidden")
        if format.dtype == "bf16":
            assert np.array_equal(stored, bits(expected[:, 0]))
        else:
            assert np.array_equal(stored, expected[:, 0].numpy())
        assert np.array_equal(stored_values(store, "train", row, "encoder/rms"), rms[:, 0].numpy())
        if kind == "bert":
            assert np.array_equal(stored_values(store, "train", row, "encoder/final")[0], exact[-1])
        else:
            for name in ("decoder/hidden", "encoder/raw_rms", "decoder/raw_rms"):
                one, other = (stored_values(s, "train", row, name) for s in (store, whole))
                assert np.array_equal(one, other)


def test_the_raw_output_of_the_last_block_can_be_restored(tmp_path, models, rows_folder) -> None:
    store = make_store(
        tmp_path / "s", models["tied"], str(rows_folder / "words.toml"), rows_folder / "words", dtype="fp32"
    )
    model = AutoModelForSeq2SeqLM.from_pretrained(models["tied"], attn_implementation="eager").eval()
    raw = []
    model.encoder.final_layer_norm.register_forward_pre_hook(lambda module, given: raw.append(given[0]))
    for row in range(3):
        raw.clear()
        tokens = torch.tensor(plan_values(store, "test", row, "encoder/token")[None].astype(np.int64))
        with torch.inference_mode():
            model.encoder(tokens)
        last = stored_values(store, "test", row, "encoder/hidden")[-1]
        restored = last / store.final_norm["encoder"] * stored_values(store, "test", row, "encoder/raw_rms")[0][:, None]
        np.testing.assert_allclose(restored, raw[0][0].numpy(), atol=1e-3, rtol=1e-4)


def test_no_attention_changes_no_state(tmp_path, models, rows_folder) -> None:
    task, rows = str(rows_folder / "words.toml"), rows_folder / "words"
    with_, without = (
        make_store(tmp_path / mode, models["tied"], task, rows, attention=mode) for mode in ("mean", "none")
    )
    assert not [name for name in without.split("train").specs if "attention" in name]
    for name, values in without.split("train").read_part(0).items():
        assert np.array_equal(values, with_.split("train").read_part(0)[name])


@pytest.mark.parametrize(("attention", "limit"), [("none", 34), ("mean", 60), ("heads", 48)])
def test_the_operations_of_a_batch_do_not_grow_with_its_rows(attention, limit) -> None:
    """On a GPU each one is a kernel launch; the arrays stay on the device until all of them are computed."""
    stack = StackSpec(name="encoder", layers=12, width=32, heads=4)
    backbone = SimpleNamespace(stacks=(stack,), final_norm_epsilon=1e-6)
    format = ExtractConfig(attention=attention).format(SimpleNamespace(stacks=(stack,), language_model=False))
    counts = []
    for rows in (2, 64):
        hidden = [torch.rand(rows, 9, 32).bfloat16() for _ in range(13)]
        weights = None if attention == "none" else [torch.rand(rows, 4, 9, 9).bfloat16() for _ in range(12)]
        with Operations() as operations:
            arrays = stored_arrays(backbone, {"encoder": StackTrace(hidden, weights)}, format, {})
        assert all(array.device == hidden[0].device for array in arrays.values())
        counts.append(operations.count)
    assert counts[0] == counts[1] <= limit, counts
