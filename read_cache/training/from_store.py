"""Side networks that train from a store alone."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from read_cache.config import Place, RunConfig
from read_cache.device import free_device_bytes
from read_cache.layers import parse_layers
from read_cache.loader.batches import SplitBatches, make_collator, split_size
from read_cache.loader.statistics import channel_statistics
from read_cache.loader.tiers import assign_tiers
from read_cache.networks.base import NetworkShape, SideNetwork, build_network, check_needs, find_kind
from read_cache.networks.record import NetworkRecord
from read_cache.networks.saved import save_network
from read_cache.scoring.choose import is_trainable, store_head
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.store.verify import finite
from read_cache.training.learner import Candidate, Learner
from read_cache.training.network_config import NetworkConfig
from read_cache.training.results import Result
from read_cache.training.run import Prepared

SCORES = ("validation", "test", "best_epoch", "epochs", "parameters", "parameters_percent")
"""Fields of a result that a network's folder remembers."""
Wanted = tuple[type[SideNetwork], Any]
"""A kind of side network and its settings."""


@dataclasses.dataclass(frozen=True)
class FromStore:
    """Makes side networks that train from one store, and saves them. A `Setup`."""

    folder: StoreFolder
    cached: bool = True

    def check(self, network: NetworkConfig, manifest: Manifest) -> None:
        """Raise UserError if the store lacks layers, attention weights or a head that the network needs."""
        kind, settings = find_kind(network.kind), resolve(network, manifest)
        check_needs(kind, settings, manifest.backbone, manifest.format)
        is_trainable(network.head, manifest.backbone, manifest.task, kind.needs(settings).trainable_head)

    def prepare(self, networks: Sequence[NetworkConfig], run: RunConfig, place: Place) -> Prepared:
        """Return learners with the channel statistics of the training split. Raises UserError."""
        store = StoreReader(self.folder)
        store.check_plan()
        manifest, device = store.manifest, place.device
        settings = [resolve(network, manifest) for network in networks]
        wanted = [(find_kind(network.kind), own) for network, own in zip(networks, settings, strict=True)]
        splits = open_splits(store, wanted, run.batch_size, run.window, place)
        steps, statistics = len(splits["train"]) * run.epochs, None
        rows = None if store.head is None else torch.from_numpy(store.head[1]).to(device)
        learners = []
        for config, own in zip(networks, settings, strict=True):
            shape = NetworkShape.of(manifest.backbone, manifest.format, own.layers)
            network = build_network(config.kind, own, shape, config.seed).to(device)
            head = store_head(config.head, manifest, rows, network, config.seed, device)
            if type(network).set_statistics is not SideNetwork.set_statistics:
                statistics = statistics or channel_statistics(splits["train"])
                network.set_statistics(statistics)
            learners.append(Learner(Candidate(network, head, run.precision), config, run, steps, own))
        return Prepared(learners, splits, splits["train"].where)

    def save(self, learner: Learner, result: Result) -> None:
        """Write the network's folder."""
        store = StoreReader(self.folder)
        save_network(
            Path(result.folder), make_record(store.manifest, result), learner.model.state_dict(), store.calibration
        )

    def divergence(self) -> str:
        """Return the likely cause: a store with values that are not finite, or the learning rate."""
        if where := next(not_finite(StoreReader(self.folder)), ""):
            return f"The store {self.folder.path} has values that are not finite, in {where}: extract it again"
        return "The learning rate may be too high: lower learning_rate"


def make_record(manifest: Manifest, result: Result) -> NetworkRecord:
    """Return the record of a network that was trained on a store."""
    return NetworkRecord(
        name=result.network,
        kind=result.kind,
        config=result.config,
        head=result.head,
        learning_rate=result.learning_rate,
        seed=result.seed,
        backbone=manifest.backbone,
        activations_digest=manifest.activations_digest,
        task_digest=manifest.task_digest,
        tokenizer_digest=manifest.activations.tokenizer_digest,
        task=manifest.task,
        label_ids=manifest.label_ids,
        max_source_length=manifest.activations.max_source_length,
        format=manifest.format,
        compute_dtype=manifest.activations.compute_dtype,
        run=result.run,
        scores={name: getattr(result, name) for name in SCORES},
    )


def resolve(network: NetworkConfig, manifest: Manifest) -> Any:
    """Return the network's settings with every value that the store decides filled in."""
    return find_kind(network.kind).resolve(network.settings, manifest.format)


def open_splits(
    store: StoreReader,
    networks: Sequence[Wanted],
    batch_size: int,
    window: int,
    place: Place,
    names: Collection[str] = (),
) -> dict[str, SplitBatches]:
    """Return batches with what the networks need of a store, held within `place.memory`.

    Args:
        store: the store.
        networks: kinds and settings. Only the layers and attention weights that they need are read.
        batch_size: examples in a batch.
        window: number of parts whose examples are shuffled together.
        place: device and memory.
        names: splits, by default all.

    Raises:
        UserError: if the memory is too small to stream the largest split.
    """
    layers: set[int] | None = set()
    for kind, settings in networks:
        chosen = () if kind.needs(settings).last_only else parse_layers(settings.layers)
        layers = None if layers is None or chosen is None else layers | set(chosen)
    needs = [kind.needs(settings) for kind, settings in networks]
    attention, raw = any(need.attention != "none" for need in needs), any(need.raw for need in needs)
    collator = make_collator(store, place.device, layers, attention, raw)
    splits = {name: store.split(name) for name in names or store.manifest.splits}
    sizes = {name: split_size(split, collator) for name, split in splits.items()}
    tiers = assign_tiers(sizes, window, place.memory * 1e9, free_device_bytes(place.device))
    return {name: SplitBatches(split, collator, batch_size, window, tiers[name]) for name, split in splits.items()}


def not_finite(store: StoreReader) -> Iterator[str]:
    """Yield the names of arrays with NaN or infinite values: of the head, then of the first part of each split."""
    if store.head is not None and not np.isfinite(store.head[1]).all():
        yield "head/weight"
    for name in store.manifest.splits:
        split = store.split(name)
        for array in split.specs:
            if not finite(split.read_array(array, 0)):
                yield f"{name}/{array}"
