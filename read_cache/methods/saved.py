"""A trained live method on disk: its own files, the weights of a trainable head, and method.json last."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from read_cache.backbones import Backbone
from read_cache.errors import UserError
from read_cache.methods.base import LiveMethod, find_method
from read_cache.networks.saved import (
    METHOD,
    NetworkRecord,
    TrainedNetwork,
    check_backbone,
    check_version,
    write_record,
    writing,
)
from read_cache.settings import parse

HEAD = "head.safetensors"


def save_method(folder: Path, method: LiveMethod, head_weights: Mapping[str, Tensor], record: NetworkRecord) -> None:
    """Write a method's folder. The record is written last: a folder that has it is complete."""
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)  # an older method of this name, whose result was removed
        folder.mkdir(parents=True)
        method.save(folder)
        if head_weights:
            save_file({name: value.cpu().contiguous() for name, value in head_weights.items()}, folder / HEAD)
        write_record(folder / METHOD, record)


def load_record(folder: Path) -> NetworkRecord:
    """Return the record of a method's folder. Raises UserError if it is damaged."""
    damaged = f"the live method at {folder} is damaged, or of another version of read-cache: train it again"
    try:
        values: Any = json.loads((folder / METHOD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{damaged}: {error}") from error
    check_version(values, folder)
    return parse(NetworkRecord, values, f"{damaged}: {METHOD}")


def load_method(folder: Path, backbone: Backbone) -> TrainedNetwork:
    """Return a trained method in evaluation mode. The method changes `backbone`, which must be in float32.

    Raises UserError if it was trained for another backbone, or if the folder is damaged.
    """
    record = load_record(folder)
    check_backbone(record, backbone.digest, f"model {backbone.name}")
    kind = find_method(record.kind)
    method: Any = kind(parse(kind.Config, record.config, f"the live method at {folder}: config"), backbone)
    try:
        method.load(folder)
        head_weights = load_file(folder / HEAD) if (folder / HEAD).exists() else {}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the live method at {folder} is damaged, train it again: {error}") from error
    return TrainedNetwork(method.eval(), head_weights, record, None)
