"""Evaluation of saved networks on a store."""

from collections.abc import Sequence
from pathlib import Path

import torch

from read_cache.config import EvaluateConfig, Place
from read_cache.device import check_device
from read_cache.errors import UserError
from read_cache.networks.base import check_needs
from read_cache.networks.saved import TrainedNetwork, check_backbone, load_network, told_apart
from read_cache.scoring.choose import saved_head
from read_cache.scoring.evaluator import Evaluation, evaluate
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import open_splits


def evaluate_saved(
    store: StoreReader, folders: Sequence[Path], split: str, config: EvaluateConfig
) -> dict[tuple[str, str], Evaluation]:
    """Return each network's metrics on a split, by (kind, name). Raises UserError for networks that do not fit."""
    check_device(config.device)
    loaded = [load_network(folder) for folder in folders]
    for trained in loaded:
        check_trained(trained, store)
    if not loaded:
        return {}
    store.check_plan()
    place = Place(device=config.device, memory=config.memory, disk=config.disk)
    networks = [trained.network for trained in loaded]
    batches = open_splits(store, networks, config.batch_size, 1, place, [split])[split]
    rows = None if store.head is None else torch.from_numpy(store.head[1]).to(config.device)
    pairs = [(one.network.to(config.device), saved_head(one, rows, config.device)) for one in loaded]
    names = told_apart([trained.record.name for trained in loaded], folders)
    keys = [(trained.record.kind, name) for trained, name in zip(loaded, names, strict=True)]
    return dict(zip(keys, evaluate(pairs, batches), strict=True))


def check_trained(trained: TrainedNetwork, store: StoreReader) -> None:
    """Raise UserError unless a store holds what a trained network reads, for the task it was trained for."""
    record, manifest, where = trained.record, store.manifest, f"store {store.folder.path}"
    check_backbone(record, manifest.backbone.digest, where)
    check_needs(trained.network, manifest.format, f"network {record.name}", where)
    # tasks that differ by their name alone are the same
    names = ("template", "target", "metric", "labels")
    same = all(getattr(record.task, name) == getattr(manifest.task, name) for name in names)
    if not same or record.label_ids != manifest.label_ids:
        raise UserError(
            f"network {record.name} was trained for task {record.task.name}, whose texts, labels or metric are not "
            f"those of {where} ({manifest.task.name}): evaluate it on a store of its own task"
        )
