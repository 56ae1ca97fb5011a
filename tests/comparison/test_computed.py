"""Counts at T5's sizes: the same as those of real tensors, and the published numbers of parameters."""

import contextlib

import pytest

from read_cache.backbones import open_backbone
from read_cache.comparison.computed import LABELS, SHOWN, SIZES, ShapedT5, build, compute, count, label_batch, published

BATCH = (3, 9)


@pytest.mark.parametrize("method", SHOWN)
def test_counts_without_values_are_those_of_a_real_backbone(method) -> None:
    kind, settings = SHOWN[method]
    settings = settings | ({"bottleneck": 8} if kind == "adapter" else {})
    real = open_backbone("t5-tiny-wiki")
    batch = label_batch(*BATCH, LABELS)
    batch.tokens.stacks["encoder"].mask[0, -1] = False  # with a padded row a T5 makes its mask
    measured = count(real, build(real, kind, settings), batch, LABELS, contextlib.nullcontext())
    computed = compute(ShapedT5("shape", real.config), kind, settings, BATCH)
    small = 1e-3 if kind == "prompt" else 0  # peft holds the numbers of the virtual tokens apart
    assert computed.inference_bytes == pytest.approx(measured.inference_bytes, rel=small)
    assert computed.replaced(inference_bytes=0) == measured.replaced(inference_bytes=0)


READ = {"attention": "none", "initial_state": "zero"}
WIDTHS = (512, 768, 1024, 1024)
PARAMETERS = [
    ("read", {"hidden": 256} | READ, tuple(3 * (d * 256 + 256**2) + 6 * 256 + 256 * d for d in WIDTHS)),
    ("ladder", {}, (1_183_628, 5_097_240, 17_718_832, 50_750_000)),
]


@pytest.mark.parametrize(("kind", "settings", "counts"), PARAMETERS)
def test_parameters_of_networks_at_published_sizes(kind, settings, counts) -> None:
    """A GRU without attention is one stack's alone, and does not depend on the depth."""
    found = [build(published(size), kind, settings) for size in SIZES]
    assert tuple(sum(weight.numel() for weight in network.parameters()) for network in found) == counts
