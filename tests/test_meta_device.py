"""No accelerator is needed to find a tensor on the wrong device: torch's `meta` device stands for one.

Its tensors have no data. An operation that mixes them with the processor's fails, and so does whatever waits for a
value: `.cpu()`, `.item()`, `.tolist()`. What runs here keeps to its device and never waits inside a step.
"""

import contextlib

import pytest
import torch
from transformers import masking_utils

from read_cache.backbones import open_backbone
from read_cache.config import RunConfig
from read_cache.extraction.calibrate import encode_states
from read_cache.extraction.stored import stored_attention
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.collate import calibration_tensors
from read_cache.methods.base import METHODS, build_method
from read_cache.methods.batches import TokenBatches
from read_cache.methods.run import method_head
from read_cache.networks.base import NETWORKS
from read_cache.networks.inputs import Standardiser
from read_cache.scoring.evaluator import score_batch
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import build
from read_cache.training.learner import Candidate, Learner
from read_cache.training.network_config import NetworkConfig
from read_cache.training.stack import Stack
from support.backbones import folder_of
from support.live import make_stores
from support.stores import make_store

META = torch.device("meta")
NAMES = ("words", "heads", "rank8", "int8", "open", "bert-pairs")
SIZES = {
    "read": {"hidden": 4},
    "read_matching": {"hidden": 4, "matching": 4},
    "ladder": {"reduction": 2},
    "side_tuning": {"reduction": 2},
}
RUN = RunConfig(batch_size=4)


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    folder = tmp_path_factory.mktemp("meta")
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    return make_stores(folder, rows_folder, *NAMES) | {
        "llama": make_store(folder / "llama", folder_of("llama"), *words)
    }


@pytest.fixture(autouse=True)
def processor_generators(monkeypatch) -> None:
    """The meta device has neither random numbers nor autocast: learners hold a processor's generator, and draw none."""
    generator, known = torch.Generator, torch.is_autocast_enabled
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda *_: False)  # waits for a value
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.bfloat16)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device="cpu": device != "meta" and known(device))


def config(kind: str, seed: int = 0, pooling: str = "mean", **settings) -> NetworkConfig:
    values = NETWORKS[kind].Config(**SIZES.get(kind, {}) | settings)
    return NetworkConfig(kind=kind, settings=values, head=HeadSettings(dropout=0, pooling=pooling), seed=seed)


def head_rows(store: StoreReader) -> torch.Tensor | None:
    return None if store.head is None else torch.from_numpy(store.head[1]).to(META)


def learner_on_meta(store: StoreReader, of: NetworkConfig) -> Learner:
    network, head = build(of, store.manifest, head_rows(store), "meta")
    for module in network.modules():
        if isinstance(module, Standardiser):
            module.key = "its hash is made of values"
    return Learner(Candidate(network, head, "fp32"), of, RUN, 10, network.config)


def batch_on_meta(store: StoreReader, split: str, tier: str = "memory"):
    collator = make_collator(store, "meta", raw=store.manifest.backbone.stacks[-1].final_norm)
    return next(SplitBatches(store.split(split), collator, 4, tier=tier).epoch(0, 0))


def kinds_for(name: str) -> list[str]:
    return [kind for kind in NETWORKS if not (name == "open" and kind == "probe")]


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in (*NAMES, "llama") for kind in kinds_for(name)])
def test_a_training_step_and_a_score_stay_on_the_device(stores, name, kind) -> None:
    store = stores[name]
    learner = learner_on_meta(store, config(kind, pooling="first" if name == "llama" else "mean"))
    for tier in ("memory", "device"):
        learner.train_step(batch_on_meta(store, "train", tier))
    assert learner.step == 2
    assert {weight.device for weight in learner.parameters.values()} == {META}
    scores = score_batch(learner.model.network, learner.model.head, batch_on_meta(store, "test"))
    assert {scores.predicted.device, scores.loss.device, scores.weight.device} == {META}


@pytest.mark.parametrize("kind", ["read", "layer_probe"])
def test_stacked_networks_step_on_the_device(stores, kind) -> None:
    store = stores["words"]
    learners = [learner_on_meta(store, config(kind, seed=seed)) for seed in range(3)]
    Stack(learners, measured=True).train_step(batch_on_meta(store, "train"))
    assert [learner.step for learner in learners] == [1, 1, 1]


@pytest.mark.parametrize("name", ["words", "bert-pairs", "llama"])
@pytest.mark.parametrize("kind", METHODS)
def test_a_live_step_stays_on_the_device(stores, monkeypatch, name, kind) -> None:
    store = stores[name]
    backbone = open_backbone(store.manifest.backbone.name, "fp32", "meta")
    width = store.manifest.backbone.width
    monkeypatch.setattr(type(backbone), "head_scale", lambda _: 1.0)  # these two need values, once a run
    monkeypatch.setattr(type(backbone), "head_rows", lambda _, ids: torch.zeros(len(ids), width))
    settings = METHODS[kind].Config(**{field: 0.0 for field in METHODS[kind].Config.model_fields if "dropout" in field})
    method = build_method(kind, settings, backbone, 0).to(META)
    of = NetworkConfig(kind=kind, settings=settings, head=HeadSettings(dropout=0))
    learner = Learner(Candidate(method, method_head(of.head, store, method), "fp32"), of, RUN, 10)
    learner.generator = None  # no dropout
    learner.train_step(next(TokenBatches(store, "train", backbone, 4).epoch(0, 0)))
    assert {weight.device for weight in learner.parameters.values()} == {META}


@pytest.mark.parametrize("name", ["rank8", "int8"])
def test_what_extraction_keeps_of_a_pass_stays_on_the_device(stores, name) -> None:
    store = stores[name]
    format, width = store.manifest.format, store.manifest.backbone.stacks[0].width
    assert store.calibration is not None
    calibration = calibration_tensors(store.calibration, "meta")
    hidden = torch.empty(len(format.array_layers("encoder/hidden")), 2, 3, width, device=META)
    stored, rms = encode_states(hidden, calibration, format)
    weights = stored_attention([torch.empty(2, 4, 3, 3, device=META)], format)
    assert {stored.device, rms.device, weights.device} == {META}


def test_a_tensor_left_on_the_processor_and_a_wait_are_found(stores) -> None:
    """The tests above can fail."""
    batch = batch_on_meta(stores["words"], "train")
    learner = learner_on_meta(stores["words"], config("read"))
    network = learner.model.network
    network.U = torch.nn.Parameter(torch.zeros(network.U.shape))
    with pytest.raises(RuntimeError, match=r"device|meta"):
        learner.train_step(batch)
    with pytest.raises(NotImplementedError, match="meta"):
        batch.final.cpu()
