"""Live methods in the one training loop: they learn, continue after a kill, repeat bit for bit, and load again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import read_cache
from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.methods.base import METHODS, LiveConfig, LiveMethod, find_method
from read_cache.methods.batches import TokenBatches
from read_cache.methods.run import LiveSetup, live_methods, method_head, store_backbone
from read_cache.methods.saved import load_method
from read_cache.scoring.evaluator import Batches, evaluate
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from read_cache.training import checkpoint as checkpoint_module
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Recipe
from read_cache.training.results import Result, read_results
from read_cache.training.run import train_networks
from read_cache.watch import Watch
from support.backbones import bert_folder
from support.stores import make_store

RUN = RunConfig(epochs=3, batch_size=8, precision="fp32")
SETTINGS = {"safe": {"bottleneck": 4, "threshold": 1.0}}  # one adapter alone trains after the first epoch


@pytest.fixture(scope="module", params=["untied", "bert"])
def store(request, tmp_path_factory, models) -> StoreReader:
    """One word of a row decides its label."""
    folder = tmp_path_factory.mktemp("separable")
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("validation", 16), ("test", 16)):
        rows = [
            {"text": " ".join(rng.permutation([*rng.choice(["river", "town", "sea"], 3), ("old", "quiet")[label]]))}
            | {"label": int(label)}
            for label in rng.integers(2, size=count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.toml").write_text('template = "{text}"\nlabels = ["no", "yes"]\n')
    model = bert_folder("bert") if request.param == "bert" else models[request.param]
    return make_store(folder / "store", model, str(folder / "task.toml"), folder, max_source_length=32)


def config(kind: str, learning_rate: float = 3e-3, seed: int = 5, **settings: object) -> NetworkConfig:
    own = find_method(kind).Config(**SETTINGS.get(kind, {}) | settings)
    return NetworkConfig(kind=kind, settings=own, learning_rate=learning_rate, seed=seed)


def train(store: StoreReader, methods: list[NetworkConfig], run: RunConfig, out: Path, **options) -> list[Result]:
    return train_networks(LiveSetup(store.folder), methods, run, out, **options)


def weights(result: Result) -> dict[str, bytes]:
    """The bytes of a trained method's folder, by file, without its record."""
    files = Path(result.folder).iterdir()
    return {path.name: path.read_bytes() for path in files if path.name != "method.json"}


def outcome(result: Result) -> dict[str, object]:
    """A result without times, memory and places."""
    return result.replaced(readings={}, extraction=None, folder="").values()


def check_reopened(result: Result, store: StoreReader) -> None:
    """Its folder gives the metrics of training on the test split, by evaluation and by predict."""
    trained = load_method(Path(result.folder), store_backbone(store.manifest))
    head = method_head(HeadSettings(**result.head), store, trained.network)
    head.load_state_dict(dict(trained.head_weights))
    tokens = TokenBatches(store, "test", trained.network.backbone, RUN.batch_size)
    (found,) = evaluate([(trained.network, head)], tokens)
    assert found.metric == result.test
    assert found.details == result.test_details

    file = Path(store.folder.path).parent / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    predicted = read_cache.predict(result.backbone, Path(result.folder).parent, rows, batch_size=5)
    assert [one["network"] for one in predicted] == [result.network] * len(rows)
    labels = [store.manifest.task.labels.index(one["label"]) for one in predicted]
    assert 100 * np.mean(np.equal(labels, [row["label"] for row in rows])) == pytest.approx(result.test)


@pytest.mark.parametrize("kind", ["full", "lora", "bitfit", "safe"])
def test_it_learns_is_saved_and_is_not_trained_again(store, kind, tmp_path) -> None:
    run = RUN.replaced(epochs=6)
    (result,) = train(store, [config(kind)], run, tmp_path)
    assert (result.kind, result.seed, result.backbone) == (kind, 5, store.manifest.backbone.name)
    assert result.history[-1].train_loss < 0.9 * result.history[0].train_loss
    assert result.parameters < store.manifest.backbone.parameters or kind == "full"
    if kind == "full":
        assert result.test > 85

    check_reopened(result, store)
    written = (tmp_path / "results.jsonl").read_bytes()
    assert train(store, [config(kind)], run, tmp_path) == [result]
    assert (tmp_path / "results.jsonl").read_bytes() == written
    with pytest.raises(UserError, match="other settings"):
        train(store, [config(kind)], RUN, tmp_path)


@pytest.mark.parametrize(("kind", "learning_rate"), [("ia3", 2e-2), ("prompt", 0.03), ("prefix", 2e-2)])
def test_methods_of_peft_learn_in_bf16_and_are_saved(store, kind, learning_rate, tmp_path) -> None:
    network = config(kind, learning_rate, backbone_dropout=0.0)
    (result,) = train(store, [network], RUN.replaced(precision="bf16"), tmp_path)
    assert result.history[-1].train_loss < result.history[0].train_loss
    check_reopened(result, store)


@pytest.mark.parametrize("kind", ["full", "lora", "safe"])
def test_a_killed_run_continues_and_ends_bit_for_bit_as_one_that_was_not(store, kind, tmp_path, monkeypatch) -> None:
    (whole,) = train(store, [config(kind)], RUN, tmp_path / "whole")
    check_killed(store, config(kind), whole, tmp_path / "killed", monkeypatch)


def check_killed(store: StoreReader, network: NetworkConfig, whole: Result, out: Path, monkeypatch) -> None:
    """A run that was killed in its second epoch ends as the `whole` one."""

    def kill(task: str, done: int, total: int) -> None:
        if done == 11:
            raise RuntimeError("killed")

    monkeypatch.setattr(checkpoint_module, "SAVE_EVERY", 0.0)
    with pytest.raises(RuntimeError, match="killed"):
        train(store, [network], RUN, out, watch=Watch(progress=kill))
    assert read_results(out) == []
    steps: list[int] = []
    watch = Watch(progress=lambda task, done, total: steps.append(done))
    (continued,) = train(store, [network], RUN, out, watch=watch)
    assert steps[0] == 12
    assert outcome(continued) == outcome(whole)
    assert weights(continued) == weights(whole)
    assert not list(out.glob("**/checkpoint*"))


def test_seeds_and_methods_of_one_run(store, tmp_path) -> None:
    methods = [config("lora", seed=5), config("lora", seed=6), config("full", 1e-4)]
    results = train(store, methods, RUN.replaced(epochs=1), tmp_path)
    assert [result.network for result in results] == [method.name for method in methods]
    assert results[0].configuration == results[1].configuration != results[2].configuration
    assert weights(results[0]) != weights(results[1])
    assert read_results(tmp_path) == results


def test_a_recipe_makes_a_grid_of_methods() -> None:
    values = {"kind": ["full", "lora"], "learning_rate": [1e-4, 3e-4], "rank": [4]}
    recipe = Recipe(values, kinds=live_methods())
    names = [network.name for network in recipe.sweep("any").networks()]
    assert [name.split("-")[0] for name in names] == ["full", "full", "lora", "lora"]
    assert len(set(names)) == 4


class Norms(LiveMethod):
    """A method from outside the package: train the norms' weights alone, and freeze half of them after an epoch.

    Later epochs scale the states by the mean that the frozen weights had then.
    """

    kind = "norms"
    frozen_mean = torch.zeros(1)

    def insert(self, module: nn.Module) -> nn.Module:
        for name, weight in module.named_parameters():
            weight.requires_grad_("norm" in name.lower())
        return module

    def end_epoch(self, epoch: int, epochs: int, batches: Batches) -> None:
        assert (epochs, batches.split.name) == (RUN.epochs, "train")
        if epoch == 1:
            self.set_extra_state(sum(weight.mean() for weight in self.half()).detach().reshape(1))

    def half(self) -> list[nn.Parameter]:
        return [dict(self.module.named_parameters())[name] for name in self.trained[::2]]

    def get_extra_state(self) -> torch.Tensor:
        return self.frozen_mean

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.frozen_mean = state
        for weight in self.half():
            weight.requires_grad_(not state.any())

    def forward(self, batch, generator=None) -> torch.Tensor:
        return super().forward(batch, generator) * (1 + self.frozen_mean)


def test_a_method_from_outside_is_trained_by_its_registration(store, tmp_path, monkeypatch) -> None:
    """It changes itself between two epochs; what it changed survives a kill; its folder opens by the defaults."""
    monkeypatch.setitem(METHODS, "norms", Norms)
    network = NetworkConfig(kind="norms", settings=LiveConfig(), learning_rate=1e-2)
    states = []
    with monkeypatch.context() as patch:
        patch.setattr("read_cache.training.loop.epoch_line", lambda learners, *_: states.append(learners[0].tensors()))
        (result,) = train_networks(LiveSetup(store.folder), [network], RUN, tmp_path / "whole")
    assert 0 < result.parameters < store.manifest.backbone.parameters
    module, head = (sum(name.startswith(f"model.{part}") for name in states[0]) for part in ("network.module", "head"))
    moments = [sum(name.endswith("exp_avg") for name in state) for state in states]
    assert moments == [module // 2 + head] * RUN.epochs
    check_killed(store, network, result, tmp_path / "killed", monkeypatch)
    opened = load_method(Path(result.folder), store_backbone(store.manifest)).network
    saved = load_file(Path(result.folder) / "weights.safetensors")
    assert sorted(saved) == sorted(opened.trained)
    assert all(torch.equal(dict(opened.module.named_parameters())[name], weight) for name, weight in saved.items())
    save_file({next(iter(saved)): torch.zeros(1)}, Path(result.folder) / "weights.safetensors")
    with pytest.raises(UserError, match=r"damaged.*weights\.safetensors"):
        load_method(Path(result.folder), store_backbone(store.manifest))
