"""Evaluation of saved networks on a store."""

from collections.abc import Sequence
from pathlib import Path

import torch

from read_cache.config import EvaluateConfig, Place
from read_cache.device import check_device
from read_cache.errors import UserError
from read_cache.layers import format_layers
from read_cache.networks.base import NetworkShape, find_kind
from read_cache.networks.record import NetworkRecord
from read_cache.networks.saved import TrainedNetwork, check_backbone, load_network, told_apart
from read_cache.scoring.choose import store_head
from read_cache.scoring.evaluator import Evaluation, evaluate
from read_cache.scoring.heads import Head, HeadSettings
from read_cache.settings import parse
from read_cache.store.reader import StoreReader
from read_cache.tasks import Task
from read_cache.training.from_store import open_splits


def evaluate_saved(
    store: StoreReader, folders: Sequence[Path], split: str, config: EvaluateConfig
) -> dict[tuple[str, str], Evaluation]:
    """Return each network's metrics on a split, by (kind, name). Raises UserError for networks that do not fit."""
    check_device(config.device)
    loaded = [load_network(folder) for folder in folders]
    for trained in loaded:
        check_trained(trained.record, store)
    if not loaded:
        return {}
    store.check_plan()
    place = Place(device=config.device, memory=config.memory)
    wanted = [(find_kind(trained.record.kind), trained.network.config) for trained in loaded]
    batches = open_splits(store, wanted, config.batch_size, 1, place, [split])[split]
    pairs = [(trained.network.to(config.device), saved_head(trained, store, config.device)) for trained in loaded]
    names = told_apart([trained.record.name for trained in loaded], folders)
    keys = [(trained.record.kind, name) for trained, name in zip(loaded, names, strict=True)]
    return dict(zip(keys, evaluate(pairs, batches), strict=True))


def saved_head(trained: TrainedNetwork, store: StoreReader, device: str) -> Head:
    """Return the head of a saved network on a store that it fits."""
    rows = None if store.head is None else torch.from_numpy(store.head[1]).to(device)
    settings = parse(HeadSettings, trained.record.head, f"head of {trained.record.name}")
    head = store_head(settings, store.manifest, rows, trained.network, device=device)
    head.load_state_dict(dict(trained.head_weights))
    return head


def check_trained(record: NetworkRecord, store: StoreReader) -> None:
    """Raise UserError unless a store holds what a trained network reads, for the task it was trained for."""
    manifest, where = store.manifest, f"store {store.folder.path}"
    check_backbone(record, manifest.backbone.digest, where)
    kind = find_kind(record.kind)
    config = kind.Config(**record.config)
    wanted = kind.needs(config).attention
    if wanted not in ("none", manifest.format.attention):
        raise UserError(
            f"network {record.name} reads attention {wanted!r}, {where} holds {manifest.format.attention!r}: evaluate "
            f"it on a store with attention {wanted}"
        )
    for stack, layers in NetworkShape.of(record.backbone, record.format, config.layers).layers.items():
        if missing := sorted(set(layers) - set(manifest.format.layers[stack])):
            raise UserError(
                f"network {record.name} runs over layers {format_layers(layers)} of the {stack}, {where} lacks "
                f"{format_layers(tuple(missing))}: evaluate it on a store with those layers"
            )
    if _meaning(record.task, record.label_ids) != _meaning(manifest.task, manifest.label_ids):
        raise UserError(
            f"network {record.name} was trained for task {record.task.name}, whose texts, labels or metric are not "
            f"those of {where} ({manifest.task.name}): evaluate it on a store of its own task"
        )


def _meaning(task: Task, label_ids: tuple[tuple[int, ...], ...]) -> tuple[object, ...]:
    """What two tasks must have in common to be the same, whatever they are called."""
    return task.template, task.target, task.metric, task.labels, label_ids
