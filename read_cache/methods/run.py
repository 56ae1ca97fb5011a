"""Live methods in a run: `train_networks(LiveSetup(folder), ...)` trains them on a store's rows to a score.

Rows, order, schedule, head, early stopping, checkpoints and results are those of side networks. Activations are not
read.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from read_cache.backbones import Backbone, open_backbone
from read_cache.config import Place, RunConfig
from read_cache.errors import UserError
from read_cache.methods.base import METHODS, LiveMethod, build_method, find_method
from read_cache.methods.batches import TokenBatches
from read_cache.networks.saved import METHOD, replacing, writing
from read_cache.scoring.choose import is_trainable, make_head
from read_cache.scoring.heads import Head, HeadSettings
from read_cache.settings import parse
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.training.learner import Candidate, Learner
from read_cache.training.network_config import NetworkConfig, check_frozen_heads
from read_cache.training.recipe import Kinds
from read_cache.training.results import Result
from read_cache.training.run import Prepared

RECORD, HEAD = METHOD, "head.safetensors"
"""Files of a trained method's folder, beside those of the method itself. The record is last."""


def live_methods() -> Kinds:
    """Return the settings classes of the live methods, for a recipe."""
    return {kind: method.Config for kind, method in METHODS.items()}


@dataclasses.dataclass(frozen=True)
class LiveSetup:
    """Makes live methods that train on a store's rows, and saves them. A `Setup` of `training/run.py`."""

    folder: StoreFolder
    cached: bool = False
    """Each method has a backbone of its own."""

    def check(self, networks: Sequence[NetworkConfig], manifest: Manifest) -> None:
        """Raise UserError if there is no such method, or no such head for the backbone and task."""
        spec, rows = manifest.backbone, torch.empty(0, device="meta")
        for network in networks:
            find_method(network.kind)
            with torch.device("meta"):  # shapes alone, no memory
                make_head(network.head, spec, manifest.task, manifest.trie, rows, stack=spec.readout, device="meta")
        check_frozen_heads(n for n in networks if not is_trainable(n.head, spec, manifest.task))

    def prepare(self, networks: Sequence[NetworkConfig], run: RunConfig, place: Place) -> Prepared:
        """Return the learner of the one method of a work unit. Raises UserError if the backbone is not the store's."""
        store = StoreReader(self.folder)
        store.check_plan()
        (config,) = networks
        backbone = store_backbone(store.manifest, place.device)
        method = build_method(config.kind, config.settings, backbone, config.seed)
        head = method_head(config.head, store, method, config.seed)
        splits = open_tokens(store, backbone, run)
        learner = Learner(Candidate(method, head, run.precision), config, run, len(splits["train"]) * run.epochs)
        return Prepared([learner], splits, TokenBatches.where)

    def save(self, learner: Learner, result: Result) -> None:
        """Write the method's folder."""
        method, folder = learner.model.network, Path(result.folder)
        assert isinstance(method, LiveMethod)
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)  # of a method of this name whose result was removed
            folder.mkdir(parents=True)
            method.save(folder)
            if weights := learner.model.head.state_dict():
                save_file({name: value.cpu().contiguous() for name, value in weights.items()}, folder / HEAD)
            with replacing(folder / RECORD) as unfinished:
                unfinished.write_text(json.dumps(result.values(), indent=2) + "\n", encoding="utf-8")

    def divergence(self) -> str:
        """Return the likely cause of a loss that is not finite."""
        return "The learning rate may be too high: lower learning_rate"


def load_method(folder: str | Path, store: StoreReader, device: str = "cpu") -> tuple[LiveMethod, Head]:
    """Return a trained method and its head, in evaluation mode, for the rows of a store.

    Raises UserError if the folder holds none, or if the store is of another backbone or task.
    """
    folder = Path(folder)
    if not (folder / RECORD).exists():
        raise UserError(f"no trained method at {folder}: expected a folder with {RECORD}")
    result = parse(Result, json.loads((folder / RECORD).read_text(encoding="utf-8")), f"{folder / RECORD}")
    if result.identity != store.manifest.identity:
        raise UserError(f"the method at {folder} was trained on other rows than those of {store.folder.path}")
    kind = find_method(result.kind)
    config = parse(kind.Config, result.config, f"{folder / RECORD}, config")
    method = kind.load(config, folder, lambda: store_backbone(store.manifest, device)).eval()
    head = method_head(parse(HeadSettings, result.head, f"{folder / RECORD}, head"), store, method)
    if (folder / HEAD).exists():
        head.load_state_dict(load_file(folder / HEAD))
    return method, head.eval()


def store_backbone(manifest: Manifest, device: str = "cpu") -> Backbone:
    """Return the backbone that filled a store, in float32. Raises UserError if its files are others by now."""
    spec = manifest.backbone
    of_hub = spec.revision not in ("bundled", "local", "packaged")
    backbone = open_backbone(spec.name, "fp32", device, spec.revision if of_hub else None)
    if backbone.digest != spec.digest:
        raise UserError(
            f"model {spec.name} in {backbone.folder} is not the one that filled the store of {manifest.task.name}: "
            "restore its files, or extract the store again"
        )
    return backbone


def open_tokens(store: StoreReader, backbone: Backbone, run: RunConfig) -> dict[str, TokenBatches]:
    """Return the token batches of every split."""
    names = store.manifest.splits
    return {name: TokenBatches(store, name, backbone, run.batch_size, run.window) for name in names}


def method_head(settings: HeadSettings, store: StoreReader, method: LiveMethod, seed: int = 0) -> Head:
    """Return the head that a method takes on a store, on the backbone's device. Raises UserError."""
    manifest, device, rows = store.manifest, method.backbone.device, None
    if store.head is not None:
        token_ids, weight = (torch.from_numpy(values) for values in store.head)
        rows = method.head_rows(token_ids) or weight.to(device)
    return make_head(
        settings, manifest.backbone, manifest.task, manifest.trie, rows, stack=method.readout, seed=seed, device=device
    )
