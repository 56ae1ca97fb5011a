"""Live methods in a run: `train_networks(LiveSetup(folder), ...)` trains them on a store's rows.

Rows, order, schedule, head, early stopping, checkpoints and results are those of side networks. Activations are not
read.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from read_cache.backbones import Backbone, open_backbone
from read_cache.config import Place, RunConfig
from read_cache.errors import UserError
from read_cache.methods.base import METHODS, LiveMethod, build_method, find_method
from read_cache.methods.batches import TokenBatches
from read_cache.methods.saved import save_method
from read_cache.scoring.choose import is_trainable, make_head
from read_cache.scoring.heads import Head, HeadSettings
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import make_record
from read_cache.training.learner import Candidate, Learner
from read_cache.training.network_config import NetworkConfig, check_frozen_heads
from read_cache.training.recipe import Kinds
from read_cache.training.results import Result
from read_cache.training.run import Prepared


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
        names = store.manifest.splits
        splits = {name: TokenBatches(store, name, backbone, run.batch_size, run.window) for name in names}
        learner = Learner(Candidate(method, head, run.precision), config, run, len(splits["train"]) * run.epochs)
        return Prepared([learner], splits, "tokens alone, the backbone in the loop")

    def save(self, learner: Learner, result: Result) -> None:
        """Write the method's folder."""
        method, manifest = learner.model.network, self.folder.read_manifest()
        assert isinstance(method, LiveMethod)
        exact = manifest.format.replaced(dtype="fp32", attention="none", rank=0)
        record = make_record(manifest, result).replaced(format=exact, compute_dtype="fp32")
        save_method(Path(result.folder), method, learner.model.head.state_dict(), record)

    def divergence(self) -> str:
        """Return the likely cause of a loss that is not finite."""
        return "The learning rate may be too high: lower learning_rate"


def store_backbone(manifest: Manifest, device: str = "cpu") -> Backbone:
    """Return the backbone that filled a store, in float32. Raises UserError if its files have changed."""
    spec = manifest.backbone
    of_hub = spec.revision not in ("bundled", "local", "packaged")
    backbone = open_backbone(spec.name, "fp32", device, spec.revision if of_hub else None)
    if backbone.digest != spec.digest:
        raise UserError(
            f"model {spec.name} in {backbone.folder} is not the one that filled the store of {manifest.task.name}: "
            "restore its files, or extract the store again"
        )
    return backbone


def method_head(settings: HeadSettings, store: StoreReader, method: LiveMethod, seed: int = 0) -> Head:
    """Return the head that a method takes on a store, on the backbone's device. Raises UserError."""
    manifest, device = store.manifest, method.backbone.device
    rows = None if store.head is None else method.head_rows(torch.from_numpy(store.head[0]))
    return make_head(
        settings, manifest.backbone, manifest.task, manifest.trie, rows, stack=method.readout, seed=seed, device=device
    )
