"""Decoder-only models against plain transformers: chains, label trees, prompts, padding."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from read_cache.backbones import StackTokens, TokenBatch, open_backbone
from read_cache.errors import UserError
from read_cache.extraction.encode import label_nodes
from read_cache.tasks import TASKS, Task
from read_cache.trie import LabelTrie
from support.backbones import DECODERS, decoder_folder

ROWS = [{"sentence": "the old river"}, {"sentence": "no"}, {"sentence": "the sea, the sea and the quiet town"}]
TREE = Task(name="tree", template="{sentence} is", labels=("yes", "yesterday", "yesteryear", "no", "nothing"))


def encoded(backbone, task, limit=150):
    return backbone.tokenize([backbone.texts(task, row, "row") for row in ROWS], limit)


def reference(kind, dtype="fp32"):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    return AutoModelForCausalLM.from_pretrained(decoder_folder(kind), dtype=dtype, attn_implementation="eager").eval()


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_chains_are_the_models_own_outputs(kind, dtype) -> None:
    backbone, model = open_backbone(str(decoder_folder(kind)), dtype), reference(kind, dtype)
    tokens = backbone.pad(encoded(backbone, TASKS["sst2"]))
    stack = tokens.stacks["decoder"]
    raw = []
    norm = model.base_model.ln_f if kind == "gpt2" else model.base_model.norm
    norm.register_forward_pre_hook(lambda module, given: raw.append(given[0]))
    with torch.inference_mode():
        trace = backbone.forward(tokens, attention=True)["decoder"]
        out = model(
            input_ids=stack.ids, attention_mask=stack.mask.long(), output_hidden_states=True, output_attentions=True
        )
    assert (len(trace.hidden), len(trace.self_attention)) == (4, 3)
    for ours, own in zip(trace.hidden, out.hidden_states, strict=True):
        assert torch.equal(ours[stack.mask], own[stack.mask])
    for ours, own in zip(trace.self_attention, out.attentions, strict=True):
        for row, length in enumerate(stack.mask.sum(1).tolist()):
            assert torch.equal(ours[row, :, :length, :length], own[row, :, :length, :length])
    if kind == "gpt2":
        assert trace.raw_last is None
    else:
        assert torch.equal(trace.raw_last[stack.mask], raw[0][stack.mask])
    assert not torch.equal(trace.hidden[-1], raw[0])
    logits = torch.nn.functional.linear(trace.hidden[-1].float(), backbone.head_rows(torch.arange(100)))
    tolerance = {"fp32": 1e-4, "bf16": 0.1}[dtype]
    torch.testing.assert_close(logits[stack.mask], out.logits[..., :100][stack.mask].float(), atol=tolerance, rtol=0.02)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_tree_of_labels_is_its_paths(kind) -> None:
    """One sequence with the nodes of all labels gives what each label's own sequence gives."""
    backbone, model = open_backbone(str(decoder_folder(kind))), reference(kind)
    labels = backbone.label_ids(TREE)
    trie = LabelTrie(labels)
    assert len(trie.prefixes) > 4
    sources = encoded(backbone, TREE)
    tokens = backbone.pad(sources, [label_nodes(trie, 0, 0, gold_only=False)] * len(sources))
    with torch.inference_mode():
        trace = backbone.forward(tokens, attention=True)["decoder"]
    for row, source in enumerate(sources):
        before = len(source.ids)
        for label in labels:
            ids = torch.tensor([[*source.ids.tolist(), *label[:-1]]])
            nodes = [
                trie.prefixes.index(label[:depth]) for depth in range(1, len(label)) if label[:depth] in trie.prefixes
            ]
            places = [*range(before), *(before - 1 + node for node in nodes)]
            with torch.inference_mode():
                out = model(input_ids=ids, output_hidden_states=True, output_attentions=True)
            for ours, own in zip(trace.hidden, out.hidden_states, strict=True):
                torch.testing.assert_close(ours[row, places], own[0, : len(places)], atol=1e-4, rtol=1e-4)
            for ours, own in zip(trace.self_attention, out.attentions, strict=True):
                found = ours[row][:, places][:, :, places]
                torch.testing.assert_close(found, own[0, :, : len(places), : len(places)], atol=1e-5, rtol=1e-4)
                off = np.setdiff1d(np.arange(ours.shape[-1]), places)
                assert not ours[row, :, places[-1]][:, off].any()


@pytest.mark.parametrize("kind", DECODERS)
def test_padding_on_either_side_gives_the_same_states(kind) -> None:
    backbone = open_backbone(str(decoder_folder(kind)))
    right = backbone.pad(encoded(backbone, TASKS["sst2"])).stacks["decoder"]
    ids, mask = torch.full_like(right.ids, backbone.pad_token), torch.zeros_like(right.mask)
    for row, length in enumerate(right.mask.sum(1).tolist()):
        ids[row, -length:], mask[row, -length:] = right.ids[row, :length], True
    with torch.inference_mode():
        one, other = (
            backbone.forward(TokenBatch({"decoder": stack}))["decoder"].hidden
            for stack in (right, StackTokens(ids, mask))
        )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a[right.mask], b[mask], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_prompts_and_labels(kind) -> None:
    backbone = open_backbone(str(decoder_folder(kind)))
    tokenizer = AutoTokenizer.from_pretrained(decoder_folder(kind))
    (source, *_) = encoded(backbone, TASKS["sst2"])
    assert source.ids.tolist() == tokenizer("Review: the old river\nSentiment:")["input_ids"]
    assert (source.ids[0] == 0) == (kind == "llama")  # the start token as the tokenizer has it
    words = backbone.label_ids(TASKS["rte"])
    assert words == tuple(tuple(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in (" yes", " no"))
    assert [len(ids) for ids in words] == [1, 1]
    assert all(ids[-1] == tokenizer.eos_token_id for ids in backbone.label_ids(TREE))  # `yes` begins `yesterday`
    (long,) = backbone.tokenize([backbone.texts(TASKS["sst2"], {"sentence": "the town " * 30}, "row")], 40)
    assert (len(long.ids), long.cut) == (40, True)
    assert tokenizer.decode(long.ids).endswith("\nSentiment:")
    gold = label_nodes(LabelTrie(words), 0, 1, gold_only=True)
    arrays = backbone.arrange(source, gold)["decoder"]
    assert arrays["target"].tolist() == [-1] * (len(source.ids) - 1) + [words[1][0]]
    assert arrays["trie"].tolist() == [-1] * (len(source.ids) - 1) + [0]


def test_limits_that_leave_no_room_are_refused() -> None:
    backbone = open_backbone(str(decoder_folder("gpt2")))
    with pytest.raises(UserError, match="max_source_length"):
        encoded(backbone, TASKS["sst2"], 192)
    with pytest.raises(UserError, match="max_source_length"):
        backbone.tokenize([("the " * 50, "a long constant end of a prompt")], 6)
