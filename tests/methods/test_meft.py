"""MEFT on tiny random models of every family: gradients, memory, start, and what a folder holds."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from read_cache.backbones import Backbone, open_backbone
from read_cache.backbones.base import Nodes
from read_cache.errors import UserError
from read_cache.loader.batch import Targets
from read_cache.methods import meft
from read_cache.methods.base import LiveBatch, build_method
from read_cache.methods.meft import Meft, MeftConfig, ReversibleStack
from support.backbones import folder_of
from support.live import TEXTS

KINDS = ("tied", "umt5", "bert", "llama", "gpt2")
VARIANTS = (1, 2, 3)
NEARLY_ZERO = 1e-12


class Ordinary:
    """Takes the place of `Reversible`: the same blocks, with torch's own backward pass."""

    @staticmethod
    def apply(blocks, x1, x2, encoded, *weights):
        for block in blocks:
            x1, x2 = block.forward(x1, x2, encoded)
        return x1, x2


def make(kind: str, dtype: torch.dtype = torch.float32, seed: int = 3, **settings: object) -> Meft:
    live = build_method("meft", MeftConfig(**{"bottleneck": 8} | settings), open_backbone(str(folder_of(kind))), seed)
    assert isinstance(live, Meft)
    return live.to(dtype)


def trained(live: Meft) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in live.named_parameters() if weight.requires_grad}


@torch.no_grad()
def scrambled(live: Meft, scale: float = 0.1) -> Meft:
    """Its weights far from their start; a scale of 0 makes adapters that add nothing."""
    generator = torch.Generator().manual_seed(0)
    for weight in trained(live).values():
        weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return live


def make_batch(backbone: Backbone) -> LiveBatch:
    """Three ragged rows; a label tree of two leaves where the family has a language model.

    UMT5 has the gold path alone, as training has: its blocks look up the depths of a tree while the forward pass runs.
    """
    texts = [(text, "") if "llama" in str(backbone.family) or backbone.family == "gpt2" else (text,) for text in TEXTS]
    columns = ([0, 5, 7], [-1, 0, 0], [0, 1, 2], [0, 1, 2])
    count = 2 if "umt5" in backbone.name else 3
    tree = Nodes(*(np.array(values[:count], dtype=np.int32) for values in columns))
    nodes = [tree] * len(texts) if backbone.language_model else None
    targets = Targets.__new__(Targets)  # a method does not read them
    return LiveBatch(backbone.pad(backbone.tokenize(texts, 60), nodes), targets)


def gradients(live: Meft, seed: int = 5) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of one training pass with dropout."""
    live.zero_grad()
    y = live(make_batch(live.backbone), torch.Generator().manual_seed(seed))
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).cos()).sum().backward()
    return y.detach(), {name: weight.grad.clone() for name, weight in trained(live).items()}


def check_gradients(live: Meft, monkeypatch, tolerance: float) -> None:
    y, found = gradients(live)
    monkeypatch.setattr(meft, "Reversible", Ordinary)
    same, expected = gradients(live)
    assert torch.equal(y, same)
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm(), name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_ordinary_backward_in_float64(kind, variant, monkeypatch) -> None:
    """With dropout, and in T5 through cross-attention: the encoder's adapters have no other gradient."""
    check_gradients(scrambled(make(kind, torch.float64, variant=variant, segment=2)), monkeypatch, 1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["tied", "bert", "llama"])
def test_three_blocks_in_one_segment_are_reversed_exactly_enough(kind, variant, precision, monkeypatch) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        check_gradients(scrambled(make(kind, variant=variant, segment=3)), monkeypatch, 1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_seed_decides_dropout_and_gradients(variant) -> None:
    live, state = scrambled(make("tied", variant=variant)), torch.get_rng_state()
    (y, first), (same, again), (other, _) = (gradients(live, seed) for seed in (1, 1, 2))
    assert torch.equal(y, same)
    assert all(torch.equal(again[name], gradient) for name, gradient in first.items())
    assert not torch.allclose(y, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_adapters_and_the_other_half_it_is_the_backbone(kind, variant, monkeypatch) -> None:
    monkeypatch.setattr(meft.STACKS[open_backbone(str(folder_of(kind))).family], "joined", lambda self, main, _: main)
    scales = {1: {"lambd": NEARLY_ZERO}, 2: {"beta": NEARLY_ZERO}, 3: {"lambd": NEARLY_ZERO, "beta": NEARLY_ZERO}}
    live = scrambled(make(kind, variant=variant, **scales[variant]), 0.0)
    batch = make_batch(live.backbone)
    expected = open_backbone(str(folder_of(kind))).final(batch.tokens)
    torch.testing.assert_close(live(batch), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_other_half_at_the_end_of_each_family() -> None:
    """Variant 1 with lambda near 0: the other half is the state before the last block."""
    for kind in ("bert", "untied", "llama"):
        live = scrambled(make(kind, lambd=NEARLY_ZERO), 0.0)
        tokens = make_batch(live.backbone).tokens
        backbone = open_backbone(str(folder_of(kind)))
        name = backbone.stacks[0].name
        trace = backbone.forward(tokens)[name]
        end = trace.hidden[-1]  # Llama: the other half's factor is 0 at first
        if kind == "bert":
            end = (end + trace.hidden[-2]) / 2
        elif kind == "untied":
            end = backbone.encoder.final_layer_norm(trace.raw_last + 0.1 * trace.hidden[-2])
        found = live.backbone.forward(tokens, states=False)[name].hidden[-1]
        torch.testing.assert_close(found, end, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_untrained_it_is_near_the_backbone_and_nearer_with_smaller_factors(kind, variant) -> None:
    def distance(factor: float) -> float:
        scales = {1: {"lambd": factor}, 2: {"beta": factor}, 3: {"lambd": factor, "beta": factor}}
        live = make(kind, variant=variant, **scales[variant])
        batch = make_batch(live.backbone)
        expected = open_backbone(str(folder_of(kind))).final(batch.tokens)
        return float((live(batch) - expected).norm() / expected.norm())

    assert 0 < distance(0.01) < 0.6 * distance(0.1) < 0.6 * 0.5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["tied", "bert", "llama"])
def test_backward_keeps_a_pair_a_segment_and_the_encoders_output(kind, variant, monkeypatch) -> None:
    kept: list[dict[int, int]] = []
    whole = ReversibleStack.forward

    def counted(stack, *given, **named):
        kept.append({})
        weights = {weight.data_ptr() for weight in stack.parameters()}

        def note(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in weights:
                kept[-1][tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            return whole(stack, *given, **named)

    monkeypatch.setattr(ReversibleStack, "forward", counted)
    for segment in (1, 2, 3):
        live = make(kind, variant=variant, segment=segment)
        batch = make_batch(live.backbone)
        kept.clear()
        live(batch, torch.Generator().manual_seed(0))
        source = batch.tokens.stacks[live.backbone.stacks[0].name].ids
        layers = [spec.layers for spec in live.backbone.stacks]
        expected = [2 * source.numel() * 32 * 8 * -(-layers[0] // segment)]
        if kind == "tied":  # the decoder has a tree of three tokens a row, and reads the encoder's output in float32
            nodes, encoded = len(TEXTS) * 3, source.numel() * 32 * 4
            expected.append(2 * nodes * 32 * 8 * -(-layers[1] // segment) + encoded)
        assert [sum(sizes.values()) for sizes in kept] == expected


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_predicts_the_same(kind, tmp_path) -> None:
    live, other = scrambled(make(kind, variant=3)), make(kind, variant=3, seed=4)
    batch = make_batch(live.backbone)
    assert not torch.allclose(live(batch), other(batch), atol=1e-2)
    live.save(tmp_path)
    other.load(tmp_path)
    assert torch.equal(live(batch), other(batch))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 100_000


@pytest.mark.parametrize("kind", ["tied", "untied", "umt5"])
def test_the_scale_of_t5s_head_is_still_found(kind) -> None:
    assert make(kind).backbone.head_scale() == open_backbone(str(folder_of(kind))).head_scale()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["tied", "umt5", "llama", "gpt2"])
def test_generation_with_a_cache_is_that_without(kind) -> None:
    live = scrambled(make(kind, variant=3)).eval()
    source = live.backbone.pad(
        live.backbone.tokenize([(TEXTS[0],) if kind in ("tied", "umt5") else (TEXTS[0], "")], 60)
    )
    ids = next(iter(source.stacks.values())).ids
    cached, whole = (
        live.module.generate(
            input_ids=ids, use_cache=cache, max_new_tokens=6, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )
        for cache in (True, False)
    )  # fmt: skip
    assert torch.equal(cached.sequences, whole.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(whole.logits), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 4_758_528),
        ({"variant": 2}, 4_758_528),
        ({"variant": 3}, 5_948_160),
        ({"bottleneck": 8}, 627_072),
        ({"variant": 3, "bottleneck": 8}, 783_840),
    ],
)
def test_trained_parameters_of_t5_base(settings, count) -> None:
    backbone = open_backbone(str(folder_of("tied")), device="cpu")
    backbone.config.d_model = 768  # the width of its stacks
    with torch.device("meta"):
        config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
        backbone.__dict__["module"] = T5ForConditionalGeneration(config)
        backbone.device = "meta"
        live = Meft(MeftConfig(**settings), backbone)
    assert sum(weight.numel() for weight in trained(live).values()) == count


def test_a_family_whose_blocks_are_unknown(monkeypatch) -> None:
    monkeypatch.delitem(meft.STACKS, "bert")
    with pytest.raises(UserError, match=r"bert.*t5, llama, gpt2.*meft"):
        make("bert")


@pytest.mark.parametrize("settings", [{"variant": 4}, {"bottleneck": 0}, {"lambd": 0.0}, {"beta": 0.0}, {"segment": 0}])
def test_bad_settings(settings) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        MeftConfig(**settings)
