"""The stored bytes that a network reads of a row."""

from pathlib import Path

import numpy as np

from read_cache.report import page
from read_cache.store.reader import StoreReader
from support.results import result


def test_the_bytes_that_a_network_reads_are_those_of_its_arrays_and_layers(words_store: Path) -> None:
    store, split = StoreReader(words_store), StoreReader(words_store).split("train")
    own = {"store": str(words_store), "identity": store.manifest.identity}
    results = [
        result("words", "read", config={"attention": "none"}, **own),
        result("words", "read", config={"attention": "mean"}, **own, configuration="attention"),
        result("words", "probe", **own),
        result("words", "lora", **own),
        result("words", "ladder", config={"of another version": 1}, **own),
        result("cola"),
    ]
    hidden, both, probe, *others = page.read_bytes(results, {store.manifest.identity: store})
    arrays = ("encoder/hidden", "decoder/hidden")
    attention = ("encoder/self_attention", "decoder/self_attention", "decoder/cross_attention")
    states, weights = (
        sum(split.shard(name).layers * split.shard(name).stride for name in names) for names in (arrays, attention)
    )
    assert hidden * split.examples == split.parts * states
    assert both * split.examples == split.parts * (states + weights)
    assert probe < hidden
    assert np.isnan(others).all()
