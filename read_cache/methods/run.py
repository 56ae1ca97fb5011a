"""Live methods in a run: `train_networks(LiveSetup(folder), ...)` trains them on a store's rows.

Rows, order, schedule, head, early stopping, checkpoints and results are those of side networks. The store's activations
are not read.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from read_cache.config import Place, RunConfig
from read_cache.methods.base import METHODS, LiveMethod, build_method, find_method
from read_cache.methods.batches import TokenBatches, store_backbone
from read_cache.methods.frozen import frozen_kinds, prepare_frozen, save_frozen, side_network
from read_cache.methods.saved import save_method
from read_cache.networks.saved import FROZEN
from read_cache.scoring.choose import is_trainable, make_head, store_head
from read_cache.scoring.heads import Head, HeadSettings
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import FromStore, make_record
from read_cache.training.learner import Candidate, Learner
from read_cache.training.network_config import NetworkConfig, check_frozen_heads
from read_cache.training.recipe import Kinds
from read_cache.training.results import Result
from read_cache.training.run import Prepared


def live_methods() -> Kinds:
    """Return the settings classes of the live methods, for a recipe."""
    return {**{kind: method.Config for kind, method in METHODS.items()}, **frozen_kinds()}


@dataclasses.dataclass(frozen=True)
class LiveSetup:
    """Setup of live methods, which train on a store's rows: a `Setup` of `training/run.py`."""

    folder: StoreFolder
    cached: bool = False
    """Each method has a backbone of its own."""

    def check(self, networks: Sequence[NetworkConfig], manifest: Manifest) -> None:
        """Raise UserError for an unknown method, or a head that does not fit the backbone and task."""
        frozen = [side_network(network) for network in networks if network.kind.startswith(FROZEN)]
        FromStore(self.folder).check(frozen, manifest)
        networks = [network for network in networks if not network.kind.startswith(FROZEN)]
        spec, rows = manifest.backbone, torch.empty(0, device="meta")
        for network in networks:
            find_method(network.kind)
            with torch.device("meta"):  # shapes alone, no memory
                make_head(network.head, manifest, rows, stack=spec.readout, device="meta")
        check_frozen_heads(n for n in networks if not is_trainable(n.head, spec, manifest.task))

    def prepare(self, networks: Sequence[NetworkConfig], run: RunConfig, place: Place) -> Prepared:
        """Return the learner of one method. Raises UserError if the backbone is not the store's."""
        (config,) = networks
        if config.kind.startswith(FROZEN):
            return prepare_frozen(self.folder, config, run, place)
        store = StoreReader(self.folder)
        store.check_plan()
        backbone = store_backbone(store.manifest, place.device)
        method = build_method(config.kind, config.settings, backbone, config.seed)
        method.check_limit(store.manifest.activations.max_source_length)
        head = method_head(config.head, store, method, config.seed)
        names = store.manifest.splits
        splits = {name: TokenBatches(store, name, backbone, run.batch_size, run.window) for name in names}
        learner = Learner(Candidate(method, head, run.precision), config, run, len(splits["train"]) * run.epochs)
        return Prepared([learner], splits, "tokens alone, the backbone in the loop")

    def save(self, learner: Learner, result: Result) -> None:
        if learner.config.kind.startswith(FROZEN):
            save_frozen(self.folder, learner, result)
            return
        method, manifest = learner.model.network, self.folder.read_manifest()
        assert isinstance(method, LiveMethod)
        exact = manifest.format.replaced(dtype="fp32", attention="none", rank=0)
        record = make_record(manifest, result).replaced(format=exact, compute_dtype="fp32")
        save_method(Path(result.folder), method, learner.model.head.state_dict(), record)

    def divergence(self) -> str:
        return "The learning rate may be too high: lower learning_rate"


def method_head(settings: HeadSettings, store: StoreReader, method: LiveMethod, seed: int = 0) -> Head:
    """Return the head of a method for a store's task, on the backbone's device. Raises UserError."""
    rows = None if store.head is None else method.head_rows(torch.from_numpy(store.head[0]))
    return store_head(settings, store.manifest, rows, method, seed, method.backbone.device)
