"""Methods of peft: what they compute, count and save is what peft itself computes, counts and opens."""

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import T5Config, T5ForConditionalGeneration

from read_cache.backbones import Backbone, StackTokens, TokenBatch, open_backbone
from read_cache.errors import UserError
from read_cache.methods.base import LiveBatch, LiveMethod, build_method, find_method
from support.backbones import folder_of

KINDS = ("lora", "ia3", "prompt", "prefix")
VIRTUAL = ("prompt", "prefix")
BACKBONES = ("tied", "mt5", "bert", "roberta", "llama", "qwen3", "gpt2")
LENGTHS = (7, 4, 2)


def backbone(name: str) -> Backbone:
    return open_backbone(str(folder_of(name)))


def method(kind: str, of: str | Backbone, **settings: Any) -> LiveMethod:
    """A method whose weights are far from their start."""
    if kind in VIRTUAL:
        settings = {"virtual_tokens": 3} | settings
    live = build_method(kind, find_method(kind).Config(**settings), backbone(of) if isinstance(of, str) else of, seed=1)
    generator = torch.Generator().manual_seed(2)
    for weight in live.parameters():
        if weight.requires_grad and not weight.is_meta:
            weight.data += torch.randn(weight.shape, generator=generator) * 0.3
    return live.eval()


def tokens(of: Backbone, rows: slice = slice(None), width: int = max(LENGTHS)) -> TokenBatch:
    """A padded batch of tokens; a T5's decoder has three tokens a row."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 20, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    stacks = {of.stacks[0].name: StackTokens(ids[rows, :width], mask[rows, :width])}
    if len(of.stacks) > 1:
        decoder = torch.randint(5, 20, (len(LENGTHS), 3), generator=generator)[rows]
        stacks["decoder"] = StackTokens(decoder, torch.ones_like(decoder, dtype=torch.bool))
    return TokenBatch(stacks)


@torch.no_grad()
def states(live: LiveMethod, batch: TokenBatch) -> Tensor:
    return live(LiveBatch(batch, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_its_folder_is_one_of_peft_whose_model_gives_the_same_states(kind, name, tmp_path) -> None:
    live = method(kind, name)
    live.save(tmp_path)
    of = backbone(name)
    batch, encoder_decoder = tokens(of), len(of.stacks) > 1
    before = of.final(batch)
    source = batch.stacks[of.stacks[0].name]
    inputs = {"input_ids": source.ids, "attention_mask": source.mask.long(), "output_hidden_states": True}
    if encoder_decoder:
        inputs["decoder_input_ids"] = batch.stacks["decoder"].ids
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft calls what transformers is about to rename
        opened = peft.PeftModel.from_pretrained(of.module, str(tmp_path)).eval()
    out = opened(**inputs)
    expected = (out.decoder_hidden_states if encoder_decoder else out.hidden_states)[-1]
    if kind == "prompt" and not encoder_decoder:
        expected = expected[:, 3:]
    real = batch.stacks[of.stacks[-1].name].mask
    # products of other shapes round differently on some processors
    assert_close(states(live, batch)[real], expected[real], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before[real], expected[real], atol=1e-2)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("kind", VIRTUAL)
def test_padding_has_no_effect(kind, name) -> None:
    live = method(kind, name)
    for row, length in enumerate(LENGTHS):
        alone = states(live, tokens(live.backbone, slice(row, row + 1), length))
        together = states(live, tokens(live.backbone))[row : row + 1, : alone.shape[1]]
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["tied", "llama", "gpt2"])
@pytest.mark.parametrize("kind", VIRTUAL)
def test_the_nodes_of_a_tree_are_those_of_its_paths(kind, name) -> None:
    """Two labels after one root, in one pass and one by one."""
    live = method(kind, name)
    first, *rest = live.backbone.stacks
    source = torch.tensor([[5, 6, 7, 8, 9]])
    chain, branches = ([5, 6, 7], [[8, 9], [10]]) if not rest else ([0], [[8, 9], [10]])

    def batch(ids: list[int], parent: list[int] | None) -> TokenBatch:
        tree = torch.tensor([ids])
        own = StackTokens(tree, torch.ones_like(tree, dtype=torch.bool), parent=parent and [np.array(parent)])
        stacks = {first.name: StackTokens(source, torch.ones_like(source, dtype=torch.bool))} if rest else {}
        return TokenBatch(stacks | {"decoder": own})

    end = len(chain) - 1
    together = states(live, batch([*chain, 8, 9, 10], [*range(-1, end), end, end + 1, end]))[0]
    for branch, places in zip(branches, ([end + 1, end + 2], [end + 3]), strict=True):
        alone = states(live, batch([*chain, *branch], None))[0]
        torch.testing.assert_close(together[[*range(end + 1), *places]], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("kind", KINDS)
def test_its_own_weights_alone_train(kind, name) -> None:
    live = method(kind, name)
    names = {name for name, weight in live.named_parameters() if weight.requires_grad}
    own = {"lora": "lora_", "ia3": "ia3_l", "prompt": "prompt_encoder", "prefix": "prompt_encoder"}[kind]
    assert names
    assert all(own in name for name in names)
    live(LiveBatch(tokens(live.backbone), None), torch.Generator().manual_seed(0)).square().sum().backward()  # type: ignore[arg-type]
    for name, weight in live.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.any())) == (name in names), name


@pytest.fixture(scope="module")
def t5_shapes() -> Iterator[Any]:
    """A function that returns a T5 of a published size, shapes alone."""
    sizes = {"small": (512, 6, 8, 64, 2048), "base": (768, 12, 12, 64, 3072), "3b": (1024, 24, 32, 128, 16384)}

    def make(size: str) -> Backbone:
        width, layers, heads, kv, ff = sizes[size]
        config = T5Config(d_model=width, num_layers=layers, num_heads=heads, d_kv=kv, d_ff=ff, tie_word_embeddings=True)
        of = backbone("tied")
        of.config, of.device, of.head_scale = config, "meta", lambda: 1.0  # the last runs the model
        with torch.device("meta"):
            of.module = T5ForConditionalGeneration(config)
        return of

    return make


@pytest.mark.parametrize(
    ("size", "kind", "settings", "count"),
    [
        ("small", "lora", {"rank": 8}, 294_912),
        ("base", "lora", {"rank": 8}, 884_736),
        ("base", "lora", {"rank": 32}, 3_538_944),
        ("3b", "lora", {"rank": 8}, 5_898_240),
        ("small", "prompt", {"virtual_tokens": 10}, 5_120),
        ("base", "prompt", {"virtual_tokens": 20}, 15_360),
        ("base", "prompt", {"virtual_tokens": 100}, 76_800),
        ("3b", "prompt", {"virtual_tokens": 30}, 30_720),
        ("base", "ia3", {}, 36 * 2 * 768 + 24 * 3072),  # k and v of 36 attentions, the inner states of 24 layers
        ("base", "prefix", {}, 20 * 12 * 2 * 768),  # keys and values of the decoder's 12 layers
        ("3b", "prefix", {"virtual_tokens": 10}, 10 * 24 * 2 * 4096),
        ("small", "full", {}, 60_506_624),
        ("base", "full", {}, 222_903_552),
        ("3b", "full", {}, 2_851_598_336),
    ],
)
def test_trained_parameters_of_published_sizes(t5_shapes, size, kind, settings, count) -> None:
    live = find_method(kind)(find_method(kind).Config(**settings), t5_shapes(size))
    assert sum(weight.numel() for weight in live.parameters() if weight.requires_grad) == count


def test_prompts_start_as_embeddings_of_tokens() -> None:
    live = build_method("prompt", find_method("prompt").Config(virtual_tokens=4), backbone("bert"), seed=1)
    (vectors,) = (weight for weight in live.parameters() if weight.requires_grad)
    table = live.backbone.module.get_input_embeddings().weight
    assert all((table == vector).all(1).any() for vector in vectors)


def test_token_types_are_kept() -> None:
    live = method("prompt", "bert")
    of = live.backbone
    batch = tokens(of)
    (source,) = batch.stacks.values()
    typed = dataclasses.replace(source, token_type=torch.ones_like(source.ids))
    zeros = dataclasses.replace(source, token_type=torch.zeros_like(source.ids))
    ones, none = (states(live, TokenBatch({"encoder": stack})) for stack in (typed, zeros))
    assert torch.equal(none, states(live, batch))
    assert not torch.allclose(ones[source.mask], none[source.mask], atol=1e-2)


@pytest.mark.parametrize(("kind", "fact"), [("ia3", "umt5"), ("lora", "targets")])
def test_a_backbone_that_peft_has_no_layers_of_is_refused(kind, fact, monkeypatch) -> None:
    of = backbone("umt5")
    monkeypatch.setattr(of, "family", "other")
    with pytest.raises(UserError, match=fact):
        method(kind, of)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_refused_where_they_do_not_fit(kind, monkeypatch) -> None:
    live = method(kind, "bert", virtual_tokens=24)
    live.check_limit(40)
    with pytest.raises(UserError, match=r"24.*41.*64 positions"):
        live.check_limit(41)
    method(kind, "tied").check_limit(10**6)
    of = backbone("tied")
    monkeypatch.setattr(of, "family", "other")
    with pytest.raises(UserError, match=f"{kind}.*t5"):
        method(kind, of)


@pytest.mark.parametrize("name", ["tied", "bert", "llama", "gpt2"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_gradient_checkpointing_saves_memory_and_changes_no_gradient(kind, name) -> None:
    """With dropout, which the second pass over a layer draws again."""
    gradients: list[dict[str, Tensor]] = []
    saved: list[int] = []
    for on in (False, True):
        config = find_method(kind).Config(gradient_checkpointing=on, backbone_dropout=0.2)
        live = build_method(kind, config, backbone(name), seed=1)
        if kind == "lora":
            torch.manual_seed(0)
            for weight in live.parameters():
                if weight.requires_grad:
                    torch.nn.init.normal_(weight, std=0.1)
        storages: dict[int, int] = {}

        def pack(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = {weight.untyped_storage().data_ptr() for weight in live.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = live(LiveBatch(tokens(live.backbone), None), torch.Generator().manual_seed(5))  # type: ignore[arg-type]
        saved.append(sum(size for place, size in storages.items() if place not in weights))
        y.square().sum().backward()
        gradients.append({n: w.grad for n, w in live.named_parameters() if w.grad is not None})
    assert saved[1] < 0.5 * saved[0]
    assert gradients[0].keys() == gradients[1].keys()
    for parameter, gradient in gradients[0].items():
        assert torch.equal(gradients[1][parameter], gradient), parameter
