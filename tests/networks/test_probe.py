"""The probe: the frozen final states, standardised, and nothing else."""

import pytest
import torch

from read_cache.errors import UserError
from read_cache.loader.batch import Statistics
from read_cache.loader.batches import SplitBatches, channel_statistics, make_collator
from read_cache.networks.base import NETWORKS, Needs, NetworkSettings, NetworkShape, build_network, find_kind
from read_cache.networks.probe import Probe
from read_cache.scoring.choose import store_head
from read_cache.scoring.heads import ClassifierHead, HeadSettings, RegressorHead
from read_cache.store.reader import StoreReader
from read_cache.store.schema import DEVIATION_FLOOR
from support.batches import bert_shape, random_batch, t5_shape


def probe(shape: NetworkShape) -> Probe:
    found = build_network("probe", NetworkSettings(), shape, 0)
    assert isinstance(found, Probe)
    return found


@pytest.mark.parametrize("shape", [t5_shape(), bert_shape()], ids=["t5", "bert"])
def test_it_is_the_first_stacks_last_state(shape) -> None:
    network, batch = probe(shape), random_batch(shape)
    assert network.readout == "encoder"
    assert list(network.parameters()) == []
    y = network(batch)
    assert torch.equal(y, batch.stacks["encoder"].values[-1])
    given = Statistics(torch.randn(4, 20), torch.rand(4, 20), (1, 2, 3))
    network.set_statistics({"encoder": given, "decoder": given})
    scale = 1 / (given.deviation[-1] ** 2 + DEVIATION_FLOOR**2).sqrt()
    torch.testing.assert_close(network(batch), (y - given.mean[-1]) * scale)


def test_what_it_needs() -> None:
    assert Probe.needs(NetworkSettings()) == Needs(positions="pooled", last_only=True, trainable_head=True)


@pytest.mark.parametrize(("name", "head"), [("words_store", ClassifierHead), ("bert_store", RegressorHead)])
def test_on_a_store_its_channels_have_mean_zero_and_its_head_is_trainable(request, name, head) -> None:
    store = StoreReader(request.getfixturevalue(name))
    manifest = store.manifest
    batches = SplitBatches(store.split("train"), make_collator(store, attention=False), 16)
    network = probe(NetworkShape.of(manifest.backbone, manifest.format))
    network.set_statistics(channel_statistics(batches))
    found = torch.cat([network(batch)[batch.stacks["encoder"].real] for batch in batches.in_order()])
    torch.testing.assert_close(found.mean(0), torch.zeros(32), atol=1e-3, rtol=0)
    assert float(found.std(0).max()) < 1.01
    chosen = store_head(HeadSettings(), manifest, None, network)
    assert isinstance(chosen, head)
    assert chosen.stack == "encoder"


def test_an_unknown_kind_is_named_with_those_there_are() -> None:
    assert {"read", "read_matching", "ladder", "probe"} <= set(NETWORKS)
    with pytest.raises(UserError, match=r"'prob'.*read.*probe"):
        find_kind("prob")
