"""Stores and networks that earlier versions wrote still open, and give what they gave; `make.py` writes them."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

import read_cache
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store
from read_cache.training.results import read_results

HERE = Path(__file__).parent
ARCHIVES = sorted(HERE.glob("schema*.tar.xz"))
FAMILIES = ("t5", "bert")
KINDS = {"read", "read_matching", "ladder", "probe"}


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def golden(request, tmp_path_factory) -> Path:
    """The folder that an archive holds."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def recorded(golden, family) -> dict[str, Any]:
    """What was recorded when the archive was written."""
    return json.loads((golden / "recorded.json").read_text())[family]


def test_there_is_an_archive() -> None:
    assert [path.name for path in ARCHIVES] == ["schema3.tar.xz"]
    assert all(path.stat().st_size < 110_000 for path in ARCHIVES)


def test_the_store_opens_with_the_identity_it_had(golden, family, recorded) -> None:
    store = StoreReader(golden / "stores" / family)
    store.check_plan()
    assert list(verify_store(store)) == []
    manifest = store.manifest
    assert manifest.text == (golden / "stores" / family / "manifest.json").read_bytes()
    for name in ("activations_digest", "task_digest", "identity"):
        assert getattr(manifest, name) == recorded[name]


def test_batches_hold_what_they_held(golden, family, recorded) -> None:
    """States, raw states, attention weights, labels: decoded from bf16, and from int8 components."""
    store, found = StoreReader(golden / "stores" / family), {}
    for split in store.manifest.splits:
        for batch in SplitBatches(store.split(split), make_collator(store, raw=True), 3).in_order():
            values = {"final": batch.final, "label": batch.targets.label, "score": batch.targets.score}
            for name, stack in batch.stacks.items():
                values[f"{name}/states"] = stack.whole_states()[:, stack.real]
                values[f"{name}/raw"] = stack.raw_state(len(stack.layers))[stack.real]
                for kind in ("self_attention", "cross_attention"):
                    if getattr(stack, kind) is not None:
                        values[f"{name}/{kind}"] = stack.attention(kind, torch.float32)
            for name, value in values.items():
                key = f"{split}/{name}"
                found[key] = found.get(key, 0.0) + float(value.double().abs().sum())
    assert found == pytest.approx(recorded["sums"], rel=1e-5)


def test_networks_score_what_they_scored(golden, family, recorded) -> None:
    networks = golden / "networks" / family
    found = {
        row["network"]: {name: value for name, value in row.items() if isinstance(value, float)}
        for row in read_cache.evaluate(golden / "stores" / family, networks, split="test")
    }
    assert found.keys() == recorded["scores"].keys()
    for name, scores in recorded["scores"].items():
        assert found[name] == pytest.approx(scores, rel=1e-4), name


def test_networks_load_and_their_results_are_read(golden, family, recorded) -> None:
    networks = golden / "networks" / family
    results = read_results(networks, recorded["identity"])
    assert {result.kind for result in results} == KINDS
    for result in results:
        folder = networks / Path(result.folder).parent.name / result.network
        loaded = read_cache.load_network(folder)
        assert (loaded.record.kind, loaded.record.activations_digest) == (result.kind, recorded["activations_digest"])
        assert result.test == pytest.approx(recorded["scores"][result.network]["metric"], rel=1e-4)


def test_a_run_on_the_store_can_be_continued(golden, family, recorded) -> None:
    """A network that has its result is not trained again, and another is trained beside it."""
    networks = golden / "networks" / family
    before = (networks / "results.jsonl").read_text()
    settings = {"epochs": 2, "batch_size": 4, "lr": 0.01, "cell": "gru", "hidden": 2}
    results = read_cache.train(golden / "stores" / family, networks, network="read", seed=[0, 1], **settings)
    assert [result.identity for result in results.results] == [recorded["identity"]] * 2
    after = (networks / "results.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == len(before.splitlines()) + 1
