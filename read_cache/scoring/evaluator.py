"""Metrics of networks on a split of a store; the backbone is not needed."""

import dataclasses

import numpy as np
import torch

from read_cache.errors import UserError
from read_cache.layers import format_layers
from read_cache.loader.batches import SplitBatches
from read_cache.metrics import detail_metrics, headline
from read_cache.networks.read import Read
from read_cache.networks.record import NetworkRecord
from read_cache.networks.saved import check_backbone
from read_cache.scoring.heads import Head
from read_cache.store.manifest import Manifest
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.tasks import Task


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One network on one split."""

    metric: float
    """The task's headline metric, times 100."""
    details: dict[str, float]
    loss: float
    """Mean negative log-likelihood of the gold label, nats an example."""


class Evaluator:
    """Evaluates any number of networks on one split in one read."""

    def __init__(self, split: SplitReader, batches: SplitBatches, head: Head) -> None:
        if head.trie is not None and split.name == "train":
            raise UserError("training rows hold the gold path's nodes only: evaluate on validation or test")
        self.split, self.batches, self.head = split, batches, head

    @torch.inference_mode()
    def evaluate(self, networks: list[Read | None]) -> list[Evaluation]:
        """Metrics of each network; None stands for the untrained backbone."""
        predicted: list[list[np.ndarray]] = [[] for _ in networks]
        losses = [0.0] * len(networks)
        for network in networks:
            if network is not None:
                network.eval()
        for batch in self.batches.in_order():
            for index, network in enumerate(networks):
                scores = self.head.scores(batch.final if network is None else network(batch), batch)
                predicted[index].append(scores.predicted.cpu().numpy())
                losses[index] += float(scores.loss.sum())
        gold = self.split.plan["score"]  # batches come in the order of the store
        found = []
        for values, loss in zip(predicted, losses, strict=True):
            values_of = label_values(self.split.manifest, np.concatenate(values))
            details = detail_metrics(self.split.manifest.task.metric, gold, values_of)
            found.append(Evaluation(headline(details), details, loss / len(gold)))
        return found


def check_trained(record: NetworkRecord, store: StoreReader) -> None:
    """UserError unless a store holds what a trained network sees, of the task it was trained for."""
    manifest, where = store.manifest, f"store {store.folder.path}"
    check_backbone(record, manifest.backbone.digest, where)
    form = manifest.form
    if record.read.attention not in ("none", form.attention):
        raise UserError(
            f"network {record.name} was trained with attention {record.read.attention!r}, {where} holds "
            f"{form.attention!r}: evaluate it on a store that was extracted with --attention {record.read.attention}"
        )
    for stack, run_over, held in (
        ("encoder", record.shape.encoder_layers, form.encoder_layers),
        ("decoder", record.shape.decoder_layers, form.decoder_layers),
    ):
        if missing := sorted(set(run_over) - set(held)):
            raise UserError(
                f"network {record.name} runs over layers {format_layers(run_over)} of the {stack}, {where} lacks "
                f"{format_layers(tuple(missing))}: evaluate it on a store with those layers"
            )
    if _says(record.task, record.label_ids) != _says(manifest.task, manifest.label_ids):
        raise UserError(
            f"network {record.name} was trained for task {record.task.name}, whose texts, labels or metric are not "
            f"those of {where} ({manifest.task.name}): evaluate it on a store of its own task"
        )


def _says(task: Task, label_ids: tuple[tuple[int, ...], ...]) -> tuple[object, ...]:
    """What makes two tasks one, whatever they are called."""
    return task.template, task.target, task.metric, task.labels, label_ids


def label_values(manifest: Manifest, predicted: np.ndarray) -> np.ndarray:
    """Predicted label ids as the metric wants them: the labels' own numbers where labels are scores."""
    if not manifest.task.scores:
        return predicted
    return np.array([float(label) for label in manifest.task.labels])[predicted]
