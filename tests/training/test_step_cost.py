"""What a step costs: bytes and operations counted by hand, and what each kind of method makes backward keep."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from read_cache.backbones import Backbone
from read_cache.config import Place, RunConfig
from read_cache.live.formats import LiveFormat
from read_cache.loader.batch import Batch
from read_cache.methods.batches import TokenBatches
from read_cache.methods.run import LiveSetup, live_methods, store_backbone
from read_cache.networks.base import NETWORKS
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import FromStore
from read_cache.training.learner import Learner
from read_cache.training.network_config import NetworkConfig
from read_cache.training.step_cost import TIMED, StepCost, kept_bytes, measure_step

ROWS, INPUTS, HIDDEN, OUTPUTS = 5, 4, 8, 3
RUN = RunConfig(batch_size=8, precision="fp32")


class Perceptron(nn.Module):
    """Two layers with a tanh between, and a square; `head` is where learners look for a head's settings."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.head = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh()), nn.Linear(HIDDEN, OUTPUTS)
        self.frozen = torch.ones(OUTPUTS)
        self.steps = 0

    def forward(self, batch: SimpleNamespace, generator: torch.Generator | None = None) -> Tensor:
        self.steps += 1
        return (self.head(self.network(batch.x)) * self.frozen).square().sum()


class Same:
    """Every batch is the same; an epoch has two."""

    def __init__(self, batch: SimpleNamespace) -> None:
        self.batch = batch

    def epoch(self, seed: int, epoch: int, start: int = 0) -> list[SimpleNamespace]:
        return [self.batch] * 2


@pytest.fixture
def batch() -> SimpleNamespace:
    return SimpleNamespace(x=torch.randn(ROWS, INPUTS), targets=range(ROWS))


def test_bytes_of_a_perceptron(batch) -> None:
    """Kept: the input, the tanh's output, once for two readers, and the square's; neither weights nor `frozen`."""
    model = Perceptron()
    assert kept_bytes(model, batch) == 4 * ROWS * (INPUTS + HIDDEN + OUTPUTS)
    model.network.requires_grad_(False)  # the head alone trains: no gradient goes through the tanh
    assert kept_bytes(model, batch) == 4 * ROWS * (HIDDEN + OUTPUTS)


def test_what_no_gradient_will_need_is_not_counted(batch) -> None:
    class WithMetric(Perceptron):
        def forward(self, batch: SimpleNamespace, generator: torch.Generator | None = None) -> Tensor:
            self.network(batch.x).square().sum().item()  # a graph that ends here
            return super().forward(batch, generator)

    assert kept_bytes(WithMetric(), batch) == kept_bytes(Perceptron(), batch)


@pytest.mark.parametrize("ema", [0, 0.9])
def test_a_step_of_a_perceptron(batch, ema) -> None:
    """A moving average is one more copy of the weights."""
    model = Perceptron()
    network = NetworkConfig(kind="probe", settings=NETWORKS["probe"].Config(), head={"learning_rate": 0.1})
    learner = Learner(model, network, RUN.replaced(ema=ema), steps=100)  # type: ignore[arg-type]
    cost = measure_step(SimpleNamespace(learners=[learner], splits={"train": Same(batch)}), order_seed=0)  # type: ignore[arg-type]
    products = INPUTS * HIDDEN + HIDDEN * OUTPUTS  # forward, gradients of weights; then that of the head's input
    assert cost.flops == 2 * ROWS * (2 * products + HIDDEN * OUTPUTS)
    weights = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
    assert cost.counted_memory == 4 * (5 if ema else 4) * weights + cost.kept_bytes
    assert cost.accelerator_memory_max is None
    assert cost.seconds_per_step > 0
    assert model.steps == 3 + TIMED
    assert StepCost(**cost.values()) == cost


def step(store: str, kind: str, **settings: object) -> StepCost:
    cached = kind in NETWORKS
    config = (NETWORKS[kind].Config if cached else live_methods()[kind])(**settings)
    setup = (FromStore if cached else LiveSetup)(StoreFolder(store))
    return measure_step(setup.prepare([NetworkConfig(kind=kind, settings=config)], RUN, Place()), RUN.order_seed)


SMALL = {"read": {"hidden": 4}, "ladder": {"reduction": 8}, "probe": {}}


@pytest.mark.parametrize("name", ["words_store", "bert_store"])
def test_methods_differ_by_what_backward_keeps(name, request, monkeypatch) -> None:
    store = request.getfixturevalue(name)
    live = {kind: step(store, kind) for kind in ("full", "lora", "adapter", "meft")}
    live["frozen_read"] = step(store, "frozen_read", **SMALL["read"], backbone_dropout=0)
    monkeypatch.setattr(Backbone, "final", None)  # networks from the cache run no backbone
    cached = {kind: step(store, kind, **settings) for kind, settings in SMALL.items()}
    kept = {kind: cost.kept_bytes for kind, cost in (live | cached).items()}
    assert kept["full"] > kept["lora"] > max(kept["read"], kept["ladder"])
    flops = {kind: cost.flops for kind, cost in (live | cached).items()}
    assert flops["full"] > flops["lora"] > max(flops["read"], flops["ladder"])
    assert kept["meft"] < kept["adapter"]  # it computes its blocks once more, in backward
    assert flops["meft"] > flops["adapter"]
    assert live["full"].counted_memory > live["frozen_read"].counted_memory > cached["read"].counted_memory
    assert kept["frozen_read"] == kept["read"]
    forward = flops["frozen_read"] - flops["read"]  # full fine-tuning has two more of it, backward
    assert 0.8 * forward < flops["full"] / 3 < 1.2 * forward
    again = step(store, "read", **SMALL["read"])
    assert (again.kept_bytes, again.flops) == (kept["read"], flops["read"])


@pytest.mark.parametrize("kind", ["read", "ladder"])
def test_nothing_of_the_backbone_is_kept(words_store, kind) -> None:
    """A network keeps the same bytes from the store and beside its frozen backbone, which runs in the same step."""
    store = StoreReader(words_store)
    setup, network = FromStore(store.folder), NetworkConfig(kind=kind, settings=NETWORKS[kind].Config(**SMALL[kind]))
    prepared = setup.prepare([network], RUN, Place())
    model, backbone = prepared.learners[0].model, store_backbone(store.manifest)
    tokens = next(TokenBatches(store, "train", backbone, RUN.batch_size).epoch(0, 0)).tokens
    beside = LiveFormat(backbone, store.manifest.format, None, attention=True, raw=True)

    class Beside(nn.Module):
        def __init__(self, network: bool) -> None:
            super().__init__()
            self.model, self.backbone = (model if network else None), backbone.module

        def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
            trace = backbone.forward(tokens, attention=True)
            if self.model is None:
                return trace[backbone.stacks[-1].name].hidden[-1].sum()
            live = beside.batch(beside.arrays(trace), tokens.stacks)
            return model(dataclasses.replace(live, targets=batch.targets), generator)

    batch = next(prepared.splits["train"].epoch(0, 0))
    assert kept_bytes(Beside(network=True), batch) == kept_bytes(model, batch) > 0
    assert kept_bytes(Beside(network=False), batch) == 0
    backbone.module.requires_grad_(True)
    assert kept_bytes(Beside(network=False), batch) > kept_bytes(model, batch)
