"""The record of a saved network: what it belongs to, how it was made, and its model card."""

import importlib.metadata
import json
import shlex
from typing import Any

from read_cache.settings import Record
from read_cache.store.schema import ComputeDtype, Format
from read_cache.store.spec import BackboneSpec
from read_cache.tasks import Task

FROZEN = "frozen_"
"""Begins the kind of a side network that is trained beside the live backbone."""
LIBRARIES = ("read-cache", "torch", "numpy", "zarr")


class NetworkRecord(Record):
    """What a saved network belongs to, and how it was made."""

    version: int = 1
    name: str
    kind: str
    """A name in `NETWORKS`."""
    config: dict[str, Any]
    """Settings of that kind."""
    head: dict[str, Any]
    """Settings of the head."""
    learning_rate: float
    seed: int
    backbone: BackboneSpec
    """Its digest names the only backbone whose activations the network can read."""
    activations_digest: str
    """Of the store that trained it."""
    task_digest: str
    tokenizer_digest: str = ""
    """Of the tokenizer that made the store's tokens."""
    task: Task
    label_ids: tuple[tuple[int, ...], ...]
    max_source_length: int
    format: Format
    """Of the store that trained it; a live backbone's states are converted to it."""
    compute_dtype: ComputeDtype
    run: dict[str, Any]
    """Settings of the run."""
    backbone_dropout: float | None = None
    """Dropout probability in the live backbone that it was trained beside; None: it was trained from a store."""
    scores: dict[str, Any]
    """validation, test, best_epoch, epochs, parameters, parameters_percent: for people; no code depends on them."""

    @property
    def train_command(self) -> str:
        """The command that trains this network alone; STORE and OUT are placeholders."""
        settings = self.config | {f"head.{name}": value for name, value in self.head.items()} | self.run
        words = ["read-cache", "train", "--store", "STORE", "--out", "OUT", "--network", self.kind]
        if self.backbone_dropout is not None:
            words[1], words[-2:] = "finetune", ["--method", FROZEN + self.kind]
            settings["backbone_dropout"] = self.backbone_dropout
        words += ["--lr", str(self.learning_rate), "--seed", str(self.seed)]
        for name, value in settings.items():
            if value is not None:
                words += ["--set", f"{name}={json.dumps(value) if isinstance(value, bool) else value}"]
        return " ".join(shlex.quote(word) for word in words)


def model_card(record: NetworkRecord) -> str:
    """Return the README of a network's folder. The same network and libraries give the same text."""
    scores, task = record.scores, record.task
    source = "stored activations" if record.backbone_dropout is None else "the live backbone's activations"

    def score(split: str) -> str:
        value = scores.get(split)
        return "not measured | -" if value is None else f"{value:.2f} | {scores.get('best_epoch')}"

    return f"""# {record.name} on {task.name}

A side network of kind `{record.kind}` for the frozen backbone `{record.backbone.name}`, trained by read-cache from
{source}.

    read-cache predict --model {shlex.quote(record.backbone.name)} --network THIS_FOLDER TEXT

In Python, beside other networks of the same backbone:

    attached = read_cache.attach(backbone, ["THIS_FOLDER"])

## Scores

|  | {task.metric}, times 100 | epoch |
| --- | --- | --- |
| validation | {score("validation")} |
| test | {score("test")} |

## How it was made

    {record.train_command}

with {", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)}.

## What it belongs to

|  |  |
| --- | --- |
| backbone | `{record.backbone.name}` ({record.backbone.family}), digest `{record.backbone.digest}` |
| activations | digest `{record.activations_digest}` |
| task | {task.name}: `{task.template}` |
| parameters | {scores.get("parameters")}, {scores.get("parameters_percent")}% of the backbone's |

config.json has its settings, labels and storage format.
"""
