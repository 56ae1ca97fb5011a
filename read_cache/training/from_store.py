"""Side networks that train from a store alone, or that are saved and evaluated on one."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from read_cache.config import EvaluateConfig, InMemory, Place, RunConfig
from read_cache.device import check_device, free_device_bytes
from read_cache.errors import UserError
from read_cache.layers import parse_layers
from read_cache.loader.batches import SplitBatches, channel_statistics, make_collator, split_size
from read_cache.loader.collate import Collator
from read_cache.loader.tiers import assign_tiers
from read_cache.networks.base import NetworkShape, SideNetwork, build_network, check_needs, find_kind
from read_cache.networks.saved import NetworkRecord, check_backbone, load_network, save_network, told_apart
from read_cache.scoring.choose import saved_head, store_head
from read_cache.scoring.evaluator import Evaluation, evaluate
from read_cache.scoring.heads import Head, LanguageModelHead
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.store.verify import finite
from read_cache.training.learner import Candidate, Learner
from read_cache.training.network_config import NetworkConfig, check_frozen_heads
from read_cache.training.results import Result
from read_cache.training.run import Prepared

SCORES = ("validation", "test", "best_epoch", "epochs", "parameters", "parameters_percent")
"""Fields of a result that a network's folder remembers."""


@dataclasses.dataclass(frozen=True)
class FromStore:
    """Makes side networks that train from one store, and saves them. A `Setup`."""

    folder: StoreFolder
    cached: bool = True

    def check(self, networks: Sequence[NetworkConfig], manifest: Manifest) -> None:
        """Raise UserError if the store lacks what a network needs, or if a network cannot be built."""
        frozen, where = [], f"store {self.folder.path}"
        for config in networks:
            with torch.device("meta"):  # shapes alone, no memory
                network, head = build(config, manifest, torch.empty(0), "meta")
            network.take_first_weights(self.folder)
            check_needs(network, manifest.format, f"network {config.name}", where)
            if isinstance(head, LanguageModelHead):
                frozen.append(config)
            elif config.head.attentive and manifest.format.positions == "pooled":
                raise UserError(
                    f"head.attentive of network {config.name} weighs several positions, but {where} holds one mean of "
                    "each text: set head.attentive to false, or extract with positions=all"
                )
        check_frozen_heads(frozen)

    def prepare(self, networks: Sequence[NetworkConfig], run: RunConfig, place: Place) -> Prepared:
        """Return learners with the channel statistics of the training split. Raises UserError."""
        store = StoreReader(self.folder)
        store.check_plan()
        rows = None if store.head is None else torch.from_numpy(store.head[1]).to(place.device)
        built = [build(config, store.manifest, rows, place.device) for config in networks]
        for network, _ in built:
            network.take_first_weights(self.folder)
        splits = open_splits(store, [network for network, _ in built], run.batch_size, run.window, place)
        steps, statistics = len(splits["train"]) * run.epochs, None
        learners = []
        for config, (network, head) in zip(networks, built, strict=True):
            if network.takes_statistics:
                statistics = statistics or channel_statistics(splits["train"])
                network.set_statistics(statistics)
            learners.append(Learner(Candidate(network, head, run.precision), config, run, steps, network.config))
        return Prepared(learners, splits, splits["train"].where)

    def save(self, learner: Learner, result: Result) -> None:
        store = StoreReader(self.folder)
        record, weights = make_record(store.manifest, result), learner.model.state_dict()
        save_network(Path(result.folder), record, weights, store.calibration)

    def divergence(self) -> str:
        """Return the likely cause of a loss that is not finite: values of the head or of a split's first part."""
        store = StoreReader(self.folder)
        arrays = [] if store.head is None else [("head/weight", np.isfinite(store.head[1]).all())]
        for name in store.manifest.splits:
            split = store.split(name)
            arrays += [(f"{name}/{array}", finite(split.read_array(array, 0))) for array in split.specs]
        for where, is_finite in arrays:
            if not is_finite:
                return f"The store {self.folder.path} has values that are not finite, in {where}: extract it again"
        return "The learning rate may be too high: lower learning_rate"


def build(config: NetworkConfig, manifest: Manifest, rows: Tensor | None, device: str) -> tuple[SideNetwork, Head]:
    """Return a network, with the settings that the store completes, and its head. Raises UserError.

    `rows` [C, D] float32 are those of the LM head, if the store has one.
    """
    settings = find_kind(config.kind).resolve(config.settings, manifest.format)
    shape = NetworkShape.of(manifest.backbone, manifest.format, settings.layers)
    network = build_network(config.kind, settings, shape, config.seed).to(device)
    return network, store_head(config.head, manifest, rows, network, config.seed, device)


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
        scores={name: getattr(result, name) for name in SCORES} | {"validation_loss": -result.score[1]},
    )


def open_splits(
    store: StoreReader,
    networks: Sequence[SideNetwork],
    batch_size: int,
    window: int,
    place: InMemory,
    names: Collection[str] = (),
) -> dict[str, SplitBatches]:
    """Return batches of some splits, by default of all, held within `place.memory`.

    Only the layers and attention weights that the networks need are read. `window` is the number of parts whose
    examples are shuffled together. Raises UserError if the memory is too small to stream the largest split.
    """
    store.folder.keep_copies(place.disk * 1e9)
    collator = needed_collator(store, [(type(network), network.config) for network in networks], place.device)
    splits = {name: store.split(name) for name in names or store.manifest.splits}
    sizes = {name: split_size(store.manifest, name, collator) for name in splits}
    tiers = assign_tiers(sizes, window, place.memory * 1e9, free_device_bytes(place.device))
    return {name: SplitBatches(split, collator, batch_size, window, tiers[name]) for name, split in splits.items()}


def needed_collator(
    store: StoreReader, networks: Sequence[tuple[type[SideNetwork], Any]], device: str = "cpu"
) -> Collator:
    """Return a collator that reads the layers and arrays that networks need; each is its kind and its settings."""
    needs = [kind.needs(config) for kind, config in networks]
    layers: set[int] | None = set()
    for (_, config), need in zip(networks, needs, strict=True):
        chosen = () if need.last_only else parse_layers(config.layers)
        layers = None if layers is None or chosen is None else layers | set(chosen)
    attention, raw = any(need.attention != "none" for need in needs), any(need.raw for need in needs)
    return make_collator(store, device, layers, attention, raw)


def evaluate_saved(
    store: StoreReader, folders: Sequence[Path], names: Sequence[str], config: EvaluateConfig
) -> dict[tuple[str, str], list[Evaluation]]:
    """Return each network's metrics on some splits, by (kind, name). Raises UserError for networks that do not fit."""
    check_device(config.device)
    loaded = [load_network(folder) for folder in folders]
    manifest, where = store.manifest, f"store {store.folder.path}"
    for trained in loaded:
        record = trained.record
        check_backbone(record, manifest.backbone.digest, where)
        check_needs(trained.network, manifest.format, f"network {record.name}", where)
        fields = ("template", "target", "metric", "labels")  # tasks that differ by their name alone are the same
        same = all(getattr(record.task, field) == getattr(manifest.task, field) for field in fields)
        if not same or record.label_ids != manifest.label_ids:
            raise UserError(
                f"network {record.name} was trained for task {record.task.name}, whose texts, labels or metric are "
                f"not those of {where} ({manifest.task.name}): evaluate it on a store of its own task"
            )
    if not loaded:
        return {}
    store.check_plan()
    networks = [trained.network for trained in loaded]
    splits = open_splits(store, networks, config.batch_size, 1, config, names)
    rows = None if store.head is None else torch.from_numpy(store.head[1]).to(config.device)
    pairs = [(one.network.to(config.device), saved_head(one, rows, config.device)) for one in loaded]
    shown = told_apart([trained.record.name for trained in loaded], folders)
    keys = [(trained.record.kind, name) for trained, name in zip(loaded, shown, strict=True)]
    by_split = [evaluate(pairs, splits[name]) for name in names]
    return dict(zip(keys, map(list, zip(*by_split, strict=True)), strict=True))
