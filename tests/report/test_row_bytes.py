"""What a page reads of stores: the bytes that a network reads of a row; of a damaged store nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from read_cache.report import page
from read_cache.store.reader import StoreReader
from read_cache.training.results import append_results
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


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_store_is_named_and_its_results_are_shown(words_store: Path, tmp_path: Path, split: str) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    shutil.copytree(words_store, store)
    shutil.rmtree(store / "arrays.zarr" / split)
    run.mkdir()
    append_results(run, [result("words", store=str(store), identity=StoreReader(store).manifest.identity)])
    report = page.Report.of_runs([run])
    assert report.notes[0] == f"These stores are absent or damaged, so their baselines are missing: {store}."
    assert list(report.networks["validation"]) == [50.0]
