"""Live methods in the one training loop: they learn, continue after a kill, repeat bit for bit, and load again."""

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from read_cache.backbones import open_backbone
from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.methods.base import METHODS, LiveConfig, LiveMethod, find_method
from read_cache.methods.batches import TokenBatches
from read_cache.methods.run import LiveSetup, live_methods, method_head, store_backbone
from read_cache.scoring.evaluator import evaluate
from read_cache.scoring.heads import Head, HeadSettings
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
    own = find_method(kind).Config(**settings)
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


def reopened(result: Result, store: StoreReader) -> tuple[LiveMethod, Head]:
    """A trained method and its head, from the files of its folder, by transformers and peft."""
    folder, kind = Path(result.folder), find_method(result.kind)
    backbone = open_backbone(str(folder)) if result.kind == "full" else store_backbone(store.manifest)
    method = kind(kind.Config(**result.config), backbone)
    if result.kind == "lora":
        peft.set_peft_model_state_dict(method.module, load_file(folder / "adapter_model.safetensors"))
    head = method_head(HeadSettings(**result.head), store, method)
    if (folder / "head.safetensors").exists():
        head.load_state_dict(load_file(folder / "head.safetensors"))
    return method, head


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_it_learns_is_saved_and_is_not_trained_again(store, kind, tmp_path) -> None:
    run = RUN.replaced(epochs=6)
    (result,) = train(store, [config(kind)], run, tmp_path)
    assert (result.kind, result.seed, result.backbone) == (kind, 5, store.manifest.backbone.name)
    assert result.history[-1].train_loss < 0.9 * result.history[0].train_loss
    assert result.parameters < store.manifest.backbone.parameters or kind == "full"
    if kind == "full":
        assert result.test > 85

    method, head = reopened(result, store)
    (found,) = evaluate([(method, head)], TokenBatches(store, "test", method.backbone, run.batch_size))
    assert found.metric == result.test
    assert found.details == result.test_details

    written = (tmp_path / "results.jsonl").read_bytes()
    assert train(store, [config(kind)], run, tmp_path) == [result]
    assert (tmp_path / "results.jsonl").read_bytes() == written
    with pytest.raises(UserError, match="other settings"):
        train(store, [config(kind)], RUN, tmp_path)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_killed_run_continues_and_ends_bit_for_bit_as_one_that_was_not(store, kind, tmp_path, monkeypatch) -> None:
    (whole,) = train(store, [config(kind)], RUN, tmp_path / "whole")

    def kill(task: str, done: int, total: int) -> None:
        if done == 11:
            raise RuntimeError("killed")

    monkeypatch.setattr(checkpoint_module, "SAVE_EVERY", 0.0)
    with pytest.raises(RuntimeError, match="killed"):
        train(store, [config(kind)], RUN, tmp_path / "killed", watch=Watch(progress=kill))
    assert read_results(tmp_path / "killed") == []
    steps: list[int] = []
    watch = Watch(progress=lambda task, done, total: steps.append(done))
    (continued,) = train(store, [config(kind)], RUN, tmp_path / "killed", watch=watch)
    assert steps[0] == 12
    assert outcome(continued) == outcome(whole)
    assert weights(continued) == weights(whole)
    assert not list((tmp_path / "killed").glob("**/checkpoint*"))


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
    """A method from outside the package: train the norms' weights alone."""

    kind = "norms"

    def insert(self, module: nn.Module) -> nn.Module:
        for name, weight in module.named_parameters():
            weight.requires_grad_("norm" in name.lower())
        return module

    def save(self, folder: Path) -> None:
        torch.save(self.state_dict(), folder / "norms.pt")


def test_a_method_from_outside_is_trained_by_its_registration(store, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(METHODS, "norms", Norms)
    network = NetworkConfig(kind="norms", settings=LiveConfig(), learning_rate=1e-2)
    (result,) = train(store, [network], RUN.replaced(epochs=1), tmp_path)
    assert result.kind == "norms"
    assert 0 < result.parameters < store.manifest.backbone.parameters
    assert (Path(result.folder) / "norms.pt").exists()
