"""T5 of every kind, against plain transformers."""

import pickle

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from read_cache.backbones import StackTokens, TokenBatch, open_backbone
from read_cache.backbones.base import Nodes
from read_cache.errors import UserError
from read_cache.tasks import TASKS
from support.tiny_t5 import KINDS

SOURCES = [[5, 9, 30, 44, 8, 1], [7, 1], [12, 13, 14, 1]]
# A chain, a tree with two branches, and a tree whose second branch leaves the first one late.
NODES = [[0, 6, 7], [0, 6, 9, 7], [0, 8, 5, 4, 11]]
PARENTS = [[-1, 0, 1], [-1, 0, 0, 1], [-1, 0, 1, 2, 1]]
FP32_NOISE = 1e-5


def token_batch(parents: list[list[int]] | None = None) -> TokenBatch:
    """The sources with their decoder nodes; chains without `parents`."""
    parent = None if parents is None else [np.array(p) for p in parents]
    return TokenBatch(
        {
            "encoder": StackTokens.pad([np.array(s) for s in SOURCES]),
            "decoder": StackTokens.pad([np.array(n) for n in NODES], parent=parent),
        }
    )


def plain(folder, dtype=torch.float32):
    """The model by plain transformers."""
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def path_to(node: int, parent: list[int]) -> list[int]:
    """Nodes from the root to a node."""
    return [*path_to(parent[node], parent), node] if node >= 0 else []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_chains_are_the_models_own_outputs(models, kind, dtype) -> None:
    backbone = open_backbone(str(models[kind]), dtype)
    batch = token_batch()
    with torch.inference_mode():
        trace = backbone.forward(batch, attention=True)
        source, decoder = batch.stacks["encoder"], batch.stacks["decoder"]
        out = plain(models[kind], backbone.module.dtype)(
            input_ids=source.ids, attention_mask=source.mask.long(), decoder_input_ids=decoder.ids,
            decoder_attention_mask=decoder.mask.long(), output_hidden_states=True, output_attentions=True,
        )  # fmt: skip
        final = backbone.final(batch)
    pairs = [
        (trace["encoder"].hidden, out.encoder_hidden_states),
        (trace["encoder"].self_attention, out.encoder_attentions),
        (trace["decoder"].hidden, out.decoder_hidden_states),
        (trace["decoder"].self_attention, out.decoder_attentions),
        (trace["decoder"].cross_attention, out.cross_attentions),
    ]
    for own, theirs in pairs:
        assert len(own) == len(theirs) > 0
        assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))
    assert torch.equal(final, out.decoder_hidden_states[-1])
    for name, stack in (("encoder", backbone.encoder), ("decoder", backbone.decoder)):
        assert torch.equal(stack.final_layer_norm(trace[name].raw_last), trace[name].hidden[-1])
        raw = trace[name].raw_last.float()
        rms = (raw.square().mean(-1, keepdim=True) + backbone.final_norm_epsilon).sqrt()
        restored = trace[name].hidden[-1].float() / backbone.final_norm()[name] * rms
        torch.testing.assert_close(restored, raw, rtol=2e-2 if dtype == "bf16" else 1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_is_its_paths(models, kind) -> None:
    backbone, model, batch = open_backbone(str(models[kind])), plain(models[kind]), token_batch(PARENTS)
    with torch.inference_mode():
        trace = backbone.forward(batch, attention=True)["decoder"]
    assert trace.hidden[0].shape[:2] == (3, 5)
    for row, (nodes, parent) in enumerate(zip(NODES, PARENTS, strict=True)):
        for node in range(len(nodes)):
            path = path_to(node, parent)
            with torch.inference_mode():
                out = model(
                    input_ids=torch.tensor([SOURCES[row]]), decoder_input_ids=torch.tensor([[nodes[i] for i in path]]),
                    output_hidden_states=True, output_attentions=True,
                )  # fmt: skip
            for own, theirs in zip(trace.hidden, out.decoder_hidden_states, strict=True):
                torch.testing.assert_close(own[row, node], theirs[0, -1], atol=FP32_NOISE, rtol=1e-5)
            for own, theirs in zip(trace.self_attention, out.decoder_attentions, strict=True):
                expected = torch.zeros(theirs.shape[1], 5)
                expected[:, path] = theirs[0, :, -1]
                torch.testing.assert_close(own[row, :, node], expected, atol=FP32_NOISE, rtol=1e-5)
            for own, theirs in zip(trace.cross_attention, out.cross_attentions, strict=True):
                length = len(SOURCES[row])
                torch.testing.assert_close(own[row, :, node, :length], theirs[0, :, -1], atol=FP32_NOISE, rtol=1e-5)
                assert not own[row, :, node, length:].any()


def test_gradients_go_through_the_tree(models) -> None:
    backbone, model = open_backbone(str(models["tied"])), plain(models["tied"])
    backbone.module.requires_grad_(True)
    final = backbone.final(token_batch(PARENTS))
    weight = torch.randn(final.shape, generator=torch.Generator().manual_seed(0))
    mask = token_batch().stacks["decoder"].mask
    (final * weight)[mask].sum().backward()
    total = torch.zeros(())
    for row, (nodes, parent) in enumerate(zip(NODES, PARENTS, strict=True)):
        for node in range(len(nodes)):
            path = torch.tensor([[nodes[i] for i in path_to(node, parent)]])
            out = model(input_ids=torch.tensor([SOURCES[row]]), decoder_input_ids=path, output_hidden_states=True)
            total = total + (out.decoder_hidden_states[-1][0, -1] * weight[row, node]).sum()
    total.backward()
    expected = dict(model.named_parameters())
    for name, parameter in backbone.module.named_parameters():
        if expected[name].grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-3, rtol=1e-3, msg=name)


def test_states_and_weights_only_if_asked(models) -> None:
    backbone = open_backbone(str(models["tied"]))
    batch = token_batch(PARENTS)
    with torch.inference_mode():
        whole, last = backbone.forward(batch, attention=True), backbone.forward(batch, states=False)
        encoder = backbone.forward(TokenBatch({"encoder": batch.stacks["encoder"]}))
    assert list(encoder) == ["encoder"]
    for name, trace in last.items():
        assert trace.self_attention is trace.cross_attention is None
        assert len(trace.hidden) == 1
        assert torch.equal(trace.hidden[0], whole[name].hidden[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_head_rows_give_the_models_logits(models, kind) -> None:
    backbone, batch = open_backbone(str(models[kind])), token_batch()
    tokens = torch.tensor([3, 17, 200])
    source, decoder = batch.stacks["encoder"], batch.stacks["decoder"]
    with torch.inference_mode():
        logits = plain(models[kind])(
            input_ids=source.ids, attention_mask=source.mask.long(), decoder_input_ids=decoder.ids
        ).logits
        own = backbone.final(batch) @ backbone.head_rows(tokens).T
    torch.testing.assert_close(own[decoder.mask], logits[..., tokens][decoder.mask], atol=1e-5, rtol=1e-4)


def test_spec_tokens_and_labels(models) -> None:
    backbone = open_backbone(str(models["mt5"]))
    encoder, decoder = backbone.spec.stacks
    assert (encoder.name, encoder.layers, encoder.width, encoder.heads) == ("encoder", 3, 32, 4)
    assert (decoder.layers, decoder.causal, decoder.attends_to) == (2, True, "encoder")
    assert encoder.final_norm
    assert not encoder.causal
    assert backbone.spec.language_model
    assert backbone.spec.parameters == sum(p.numel() for p in plain(models["mt5"]).parameters())
    whole, short = (backbone.tokenize([("many people live here",), ("a",)], limit) for limit in (100, 4))
    assert [source.cut for source in (*whole, *short)] == [False, False, True, False]
    assert short[0].ids.tolist() == [*whole[0].ids[:3].tolist(), 1]
    assert whole[0].ids.dtype == np.int32
    assert backbone.label_ids(TASKS["rte"])[0] == tuple(backbone.tokenizer("entailment")["input_ids"])


def test_padding_a_batch_and_pickling(models) -> None:
    backbone = pickle.loads(pickle.dumps(open_backbone(str(models["tied"]), "bf16")))
    assert (backbone.dtype, backbone.module.dtype) == ("bf16", torch.bfloat16)
    sources = backbone.tokenize([("a river",), ("the old town runs",)], 20)
    nodes = [Nodes(*(np.array(x) for x in ([0, 6], [-1, 0], [0, 1], [6, 1])))] * 2
    batch = backbone.pad(sources, nodes)
    assert len(batch) == 2
    assert batch.stacks["encoder"].mask.sum(1).tolist() == [len(source.ids) for source in sources]
    assert batch.stacks["decoder"].parent[1].tolist() == [-1, 0]


def test_another_family_is_refused_by_name(models, tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    with pytest.raises(UserError, match="opt"):
        open_backbone(str(tmp_path))
