"""Which head a network takes: the frozen LM head over the label trie, or a trainable one."""

from collections.abc import Callable
from typing import Any

import torch

from read_cache.errors import UserError
from read_cache.networks.ensemble import Ensemble
from read_cache.networks.saved import NetworkRecord, TrainedNetwork
from read_cache.scoring.heads import (
    ClassifierHead,
    EnsembleHead,
    Head,
    HeadSettings,
    OpenHead,
    RegressorHead,
    Rows,
    TrieHead,
)
from read_cache.settings import parse
from read_cache.store.manifest import Manifest
from read_cache.store.spec import BackboneSpec
from read_cache.tasks import Task

Source = Manifest | NetworkRecord
"""A head is made from its backbone, task and label trie: those of a store, or those a network was trained for."""


def trainable_head(settings: HeadSettings, width: int, task: Task) -> Head:
    """Return a classifier, or a regressor for a task whose labels are scores."""
    if task.scores:
        return RegressorHead(settings, width, float(task.labels[0]), float(task.labels[-1]))
    return ClassifierHead(settings, width, len(task.labels))


HEADS: dict[str, Callable[[HeadSettings, int, Task], Head]] = {"trainable": trainable_head}
"""Heads that train, by name: functions of (settings, width of the states, task)."""


def is_trainable(settings: HeadSettings, spec: BackboneSpec, task: Task, needs_one: bool = False) -> bool:
    """Return True if the head trains. Raises UserError if there is no such head for the backbone and task."""
    if settings.kind not in ("auto", "trie", *HEADS):
        raise UserError(f"head.kind is {settings.kind!r}, expected one of auto, trie, {', '.join(HEADS)}")
    trainable = settings.kind in HEADS or (settings.kind == "auto" and (needs_one or not spec.language_model))
    if not trainable and not spec.language_model:
        raise UserError(f"head.kind is 'trie', but {spec.name} has no LM head: set head.kind to trainable")
    if not trainable and needs_one:
        raise UserError("head.kind is 'trie', but a probe trains nothing beside its head: set head.kind to trainable")
    if trainable and not task.labels:
        raise UserError(f"task {task.name} has an open target, which needs a frozen LM head: give it labels")
    return trainable


def check_pooling(pooling: str, spec: BackboneSpec, task: Task, stack: str) -> None:
    """Raise UserError if a trainable head cannot pool the states of `stack` in this way."""
    if spec.language_model and stack == spec.readout and pooling != "first":
        raise UserError(
            f"head.pooling is {pooling!r}, but the {stack}'s positions of a training row are those of its label: "
            "set head.pooling to first"
        )
    if pooling == "apart" and not spec.stack(stack).segments:
        raise UserError(f"head.pooling is 'apart', but the {stack} of {spec.name} joins all texts: use mean")
    if pooling == "apart" and len(task.text_fields) != 2:
        raise UserError(f"head.pooling is 'apart', but task {task.name} has {len(task.text_fields)} text: use mean")


def make_head(
    settings: HeadSettings,
    source: Source,
    rows: Rows | None,
    *,
    stack: str,
    needs_one: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> Head:
    """Return the head for a network whose output belongs to `stack`, on a store or a network's task. Raises UserError.

    `rows` [C, D] float32 are the LM head's rows, or a function that returns them. `needs_one`: the network takes a
    trainable head even where the backbone has an LM head. A trainable head's weights depend on settings and seed alone.
    """
    spec, task = source.backbone, source.task
    if is_trainable(settings, spec, task, needs_one):
        kind = "trainable" if settings.kind == "auto" else settings.kind
        if kind == "trainable":
            check_pooling(settings.pooling, spec, task, stack)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = HEADS[kind](settings, spec.stack(stack).width, task).to(device)
    else:
        assert rows is not None
        head = OpenHead(rows) if source.trie is None else TrieHead(rows, source.trie, task, device)
    head.stack = stack
    return head


def store_head(
    settings: HeadSettings, source: Source, rows: Rows | None, network: Any, seed: int = 0, device: str = "cpu"
) -> Head:
    """Return the head of a side network or live method, as `make_head` does; an ensemble's averages its members'."""
    if isinstance(network, Ensemble):
        own = [parse(HeadSettings, member.head, f"head of a {member.kind}") for member in network.config.members]
        pairs = zip(own, network.members, strict=True)
        return EnsembleHead([store_head(one, source, rows, member, seed, device) for one, member in pairs])
    needs_one = network.needs(network.config).trainable_head
    return make_head(settings, source, rows, stack=network.readout, needs_one=needs_one, seed=seed, device=device)


def saved_head(trained: TrainedNetwork, rows: Rows | None, device: str) -> Head:
    """Return the head of a saved network or method, with its weights. Raises UserError if they do not fit."""
    record = trained.record
    settings = parse(HeadSettings, record.head, f"head of network {record.name}")
    head = store_head(settings, record, rows, trained.network, device=device)
    try:
        head.load_state_dict(dict(trained.head_weights))
    except RuntimeError as error:
        raise UserError(f"network {record.name} has weights that do not fit its head: train it again") from error
    return head.eval()
