"""Side networks that train with the frozen backbone in the loop. Kind KIND is then called `frozen_KIND`.

The backbone computes every batch again, in the store's format. Without dropout in the backbone, training gives the same
network as from the store. It is saved as a side network.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from read_cache.backbones import Backbone
from read_cache.config import Place, RunConfig
from read_cache.extraction.stored import stored_arrays
from read_cache.loader.batch import Batch
from read_cache.loader.collate import Collator
from read_cache.methods.base import LiveConfig, drawing_from, set_dropout
from read_cache.methods.batches import TokenBatches, store_backbone
from read_cache.networks.base import NETWORKS, SideNetwork, find_kind
from read_cache.networks.saved import FROZEN, save_network
from read_cache.settings import Settings
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import FromStore, make_record
from read_cache.training.learner import Learner
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Kinds
from read_cache.training.results import Result
from read_cache.training.run import Prepared


class FrozenConfig(LiveConfig):
    """Settings of the backbone. A subclass adds the settings of a network."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the network's settings class, as no module holds this one."""
        return _restored, (type(self).__bases__[0], self.values())


@functools.cache
def frozen_config(own: type[Settings]) -> type[Settings]:
    """Return the settings class of a network beside the backbone. `own` is the network's settings class."""
    return type(f"Frozen{own.__name__}", (own, FrozenConfig), {"__doc__": own.__doc__, "__module__": __name__})


def _restored(own: type[Settings], values: dict[str, Any]) -> Settings:
    return frozen_config(own)(**values)


def frozen_kinds() -> Kinds:
    """Return the settings classes of all side networks beside the backbone, by kind."""
    return {FROZEN + kind: frozen_config(network.Config) for kind, network in NETWORKS.items()}


def side_network(config: NetworkConfig) -> NetworkConfig:
    """Return the configuration of the same network trained from a store. Raises UserError."""
    kind = config.kind.removeprefix(FROZEN)
    own = find_kind(kind).Config
    return config.replaced(
        kind=kind, settings=own(**{name: getattr(config.settings, name) for name in own.model_fields})
    )


class FrozenBatches(TokenBatches):
    """Batches of activations of one split, computed by the backbone."""

    def __init__(
        self,
        store: StoreReader,
        split: str,
        backbone: Backbone,
        batch_size: int,
        window: int,
        collator: Collator,
        seed: int | None,
    ) -> None:
        """`collator` is the store's. `seed` is that of the backbone's dropout; None: the backbone has no dropout."""
        super().__init__(store, split, backbone, batch_size, window)
        self.collator, self.seed = collator.at_all_positions(), seed

    def batch(self, rows: np.ndarray, step: tuple[int, ...] = ()) -> Batch:
        """Return a batch. Dropout, in training alone, is drawn from the seed and `step`."""
        tokens, padded = self.padded(rows)
        backbone, collator, generator = self.backbone, self.collator, None
        if step and self.seed is not None:
            drawn = int(np.random.default_rng((self.seed, *step)).integers(2**62))
            generator = torch.Generator(backbone.device).manual_seed(drawn)
        backbone.module.train(generator is not None)
        with torch.no_grad(), drawing_from(generator):
            trace = backbone.forward(tokens, collator.attention)
        arrays = stored_arrays(backbone, trace, collator.format, collator.calibration)
        return collator.batch(dataclasses.replace(padded, arrays=arrays))


def prepare_frozen(folder: StoreFolder, config: NetworkConfig, run: RunConfig, place: Place) -> Prepared:
    """Return the learner of one network, made as from the store, and the backbone's batches. Raises UserError."""
    cached = FromStore(folder).prepare([side_network(config)], run, place)
    (learner,), store = cached.learners, StoreReader(folder)
    learner.config, learner.settings = config, config.settings.replaced(**learner.settings.values())
    backbone = store_backbone(store.manifest, place.device, store.manifest.activations.compute_dtype)
    dropout: float = config.settings.values()["backbone_dropout"]
    set_dropout(backbone.module, dropout)
    collator, seed = cached.splits["train"].collator, config.seed if dropout else None  # type: ignore[attr-defined]
    args = backbone, run.batch_size, run.window, collator, seed
    splits = {name: FrozenBatches(store, name, *args) for name in cached.splits}
    return Prepared([learner], splits, "tokens alone, the frozen backbone in the loop")


def save_frozen(folder: StoreFolder, learner: Learner, result: Result) -> None:
    """Write the folder of a side network, whose record has the backbone's dropout."""
    store, network = StoreReader(folder), cast(SideNetwork, learner.model.network)
    own = result.replaced(kind=network.kind, config=network.config.values())
    record = make_record(store.manifest, own).replaced(backbone_dropout=result.config["backbone_dropout"])
    save_network(Path(result.folder), record, learner.model.state_dict(), store.calibration)
