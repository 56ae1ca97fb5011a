"""Side networks with the frozen backbone in the loop: it computes every batch again, in the store's format.

A network of kind `frozen_KIND` is a side network of kind KIND. With dropout in the backbone it trains as published; without, it
becomes what training from the store makes of it. It is saved as a side network.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from read_cache.backbones import TokenBatch
from read_cache.config import Place, RunConfig
from read_cache.extraction.stored import stored_arrays
from read_cache.loader.batch import Batch
from read_cache.loader.collate import PaddedExamples
from read_cache.loader.order import store_batches
from read_cache.methods.base import LiveConfig, drawing_from, set_dropout
from read_cache.methods.batches import TokenBatches, store_backbone
from read_cache.networks.base import NETWORKS, find_kind
from read_cache.networks.record import FROZEN
from read_cache.networks.saved import save_network
from read_cache.settings import Settings
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import build, make_learners, make_record, network_collator
from read_cache.training.learner import Learner
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Kinds
from read_cache.training.results import Result
from read_cache.training.run import Prepared


class FrozenConfig(LiveConfig):
    """Settings of the backbone; a subclass adds those of a network."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the network's settings class, as no module holds this one."""
        return _restore, (type(self).__bases__[0], self.values())


@functools.cache
def frozen_config(own: type[Settings]) -> type[Settings]:
    """Return the settings class of a frozen kind, of that of its network."""
    return type(f"Frozen{own.__name__}", (own, FrozenConfig), {"__doc__": own.__doc__, "__module__": __name__})


def _restore(own: type[Settings], values: dict[str, Any]) -> Settings:
    return frozen_config(own)(**values)


def frozen_kinds() -> Kinds:
    """Return the settings classes of all side networks beside the live backbone, by kind."""
    return {FROZEN + kind: frozen_config(network.Config) for kind, network in NETWORKS.items()}


def side_network(config: NetworkConfig) -> NetworkConfig:
    """Return a frozen kind's configuration as that of its side network. Raises UserError for an unknown network."""
    kind = config.kind.removeprefix(FROZEN)
    own = find_kind(kind).Config
    return config.replaced(kind=kind, settings=own(**{name: getattr(config.settings, name) for name in own.model_fields}))


class FrozenBatches(TokenBatches):
    """Batches of one split as `SplitBatches` reads them, computed by the backbone."""

    def __init__(self, store: StoreReader, split: str, backbone: Any, run: RunConfig, collator: Any, seed: int | None):
        """`collator` is that of the store for the network's needs; `seed` draws the dropout, None: there is none."""
        super().__init__(store, split, backbone, run.batch_size, run.window)
        self.collator, self.seed = collator, seed

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield every example once, as `SplitBatches` does; the dropout of a batch depends on its number alone."""
        batches = self.padded(self.order(seed, epoch)[start:])
        for number, (tokens, padded) in enumerate(batches, start):
            generator = None
            if self.seed is not None:
                drawn = int(np.random.default_rng((self.seed, seed, epoch, number)).integers(2**62))
                generator = torch.Generator(self.backbone.device).manual_seed(drawn)
            yield self.computed(tokens, padded, generator)

    def in_order(self) -> Iterator[Batch]:
        """Yield every example once, in the order of the store."""
        for tokens, padded in self.padded(store_batches(self.split.examples, self.batch_size)):
            yield self.computed(tokens, padded, None)

    def computed(self, tokens: TokenBatch, padded: PaddedExamples, generator: torch.Generator | None) -> Batch:
        """Return a batch with the backbone's outputs; `generator` draws its dropout, None: it is in evaluation mode."""
        backbone, collator = self.backbone, self.collator
        backbone.module.train(generator is not None)
        with torch.no_grad(), drawing_from(generator):
            trace = backbone.forward(tokens, collator.attention)
        arrays = stored_arrays(backbone, trace, collator.format, collator.calibration)
        batch: Batch = collator.batch(dataclasses.replace(padded, arrays=arrays))
        return batch


def prepare_frozen(folder: StoreFolder, config: NetworkConfig, run: RunConfig, place: Place) -> Prepared:
    """Return the learner of one network, and batches that the backbone computes. Raises UserError."""
    store, rate = StoreReader(folder), config.settings.backbone_dropout  # type: ignore[attr-defined]
    store.check_plan()
    manifest = store.manifest
    backbone = store_backbone(manifest, place.device, manifest.activations.compute_dtype)
    set_dropout(backbone.module, rate)
    rows = None if store.head is None else torch.from_numpy(store.head[1]).to(place.device)
    network, head = build(side_network(config), manifest, rows, place.device)
    collator, seed = network_collator(store, [network], place.device), config.seed if rate else None
    splits = {name: FrozenBatches(store, name, backbone, run, collator, seed) for name in manifest.splits}
    (learner,) = make_learners([config], [(network, head)], splits, run)
    learner.settings = config.settings.replaced(**network.config.values())
    return Prepared([learner], splits, "tokens alone, the frozen backbone in the loop")


def save_frozen(folder: StoreFolder, learner: Learner, result: Result) -> None:
    """Write the folder of a side network, which names the backbone's dropout."""
    store, network = StoreReader(folder), learner.model.network
    own = result.replaced(kind=network.kind, config=network.config.values())
    record = make_record(store.manifest, own).replaced(backbone_dropout=learner.settings.backbone_dropout)
    save_network(Path(result.folder), record, learner.model.state_dict(), store.calibration)
