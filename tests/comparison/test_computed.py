"""Counts at T5's sizes: the same as those of real tensors, and the published numbers of parameters."""

import contextlib

import pytest

from read_cache.backbones import open_backbone
from read_cache.comparison.computed import LABELS, SHOWN, SIZES, ShapedT5, build, compute, count, label_batch, published
from read_cache.config import Place, RunConfig
from read_cache.networks.base import NETWORKS
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import FromStore
from read_cache.training.network_config import NetworkConfig
from read_cache.training.step_cost import kept_bytes

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
PARAMETERS = [
    ("read", {"hidden": 256} | READ, (1_445_888, 1_970_688, 2_495_488, 2_495_488)),
    ("read", {"hidden": 128} | READ, (625_152, 887_808, 1_150_464, 1_150_464)),
    ("ladder", {}, (1_183_628, 5_097_240, 17_718_832, 50_750_000)),
]


@pytest.mark.parametrize(("kind", "settings", "counts"), PARAMETERS)
def test_parameters_of_networks_at_published_sizes(kind, settings, counts) -> None:
    """GRU: 3 (d r + r^2) + 6 r + r d + d for each stack, whatever its depth."""
    found = [build(published(size), kind, settings) for size in SIZES]
    assert tuple(sum(weight.numel() for weight in network.parameters()) for network in found) == counts


def test_a_batch_of_the_store_is_the_one_that_is_counted(words_store) -> None:
    """What backward keeps of a network's step from a store."""
    store = StoreReader(words_store)
    manifest = store.manifest
    network = NetworkConfig(kind="read", settings=NETWORKS["read"].Config(hidden=4, standardize=False))
    prepared = FromStore(store.folder).prepare([network], RunConfig(batch_size=4), Place())
    model, batch = prepared.learners[0].model, next(prepared.splits["train"].epoch(0, 0))
    backbone = open_backbone(manifest.backbone.name)
    assert len(batch.targets.node_trie[0]) == max(map(len, manifest.trie.paths))
    shape = tuple(batch.stacks["encoder"].real.shape)
    computed = compute(ShapedT5("shape", backbone.config), "read", network.settings.values(), shape, manifest.label_ids)
    assert computed.kept_bytes == kept_bytes(model, batch)
