"""A network's model card: what it scored, the command that made it, and what it belongs to."""

import dataclasses
import importlib.metadata
import shlex
from collections.abc import Mapping
from typing import Any

from read_cache.layers import format_layers
from read_cache.networks.record import NetworkRecord

RESULTS = ("validation", "test", "best_epoch", "parameters", "parameters_percent")
"""What `NetworkRecord.training` holds besides settings."""
FLAGS = {"recurrent": ("--recurrent", "--untied"), "standardize": ("--standardize", "--no-standardize")}
OPTIONS = {"learning_rate": "lr"}
"""Settings whose option has another name."""
LIBRARIES = ("read-cache", "torch", "numpy", "zarr")


def model_card(record: NetworkRecord) -> str:
    """A README for people who find the folder; the same network and libraries give the same text."""
    found, form = record.training, record.form
    scores = {split: _score(found.get(split), found) for split in ("validation", "test")}
    states = f"{form.dtype} in {form.rank} components" if form.rank else form.dtype
    belongs = {
        "backbone": f"`{record.backbone}`, digest `{record.backbone_digest}`",
        "store": f"digest `{record.store_digest}`",
        "task": f"{record.task.name}: `{record.task.template}`",
        "labels": ", ".join(f"`{label}`" for label in record.task.labels) or f"open target `{record.task.target}`",
        "sources": f"at most {record.max_source_length} tokens",
        "stored": f"{states}, computed in {record.compute_dtype}; attention {form.attention} in {form.attention_dtype}",
        "layers": f"{format_layers(record.shape.encoder_layers)} of the encoder, "
        f"{format_layers(record.shape.decoder_layers)} of the decoder",
        "parameters": f"{found.get('parameters')}, {found.get('parameters_percent')}% of the backbone's",
    }
    return f"""# {record.name} on {record.task.name}

A READ side network for the frozen backbone `{record.backbone}`, trained by read-cache from stored activations.

    read-cache predict --model {shlex.quote(record.backbone)} --network THIS_FOLDER TEXT

or, in Python, beside other networks of the same backbone:

    attached = read_cache.attach(backbone, ["THIS_FOLDER"])

## Scores

{_table((f"{record.task.metric}, times 100", "epoch"), scores)}

## How it was made

    {train_command(record)}

with {", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)}.

## What it belongs to

{_table(("",), {name: (value,) for name, value in belongs.items()})}
"""


def train_command(record: NetworkRecord) -> str:
    """The call that trains this network alone; STORE and OUT are places."""
    settings = dataclasses.asdict(record.read)
    settings |= {name: value for name, value in record.training.items() if name not in RESULTS}
    options = [_option(name, value) for name, value in settings.items()]
    return "read-cache train --store STORE --out OUT " + " ".join(options)


def _option(name: str, value: Any) -> str:
    if name in FLAGS:
        return FLAGS[name][0 if value else 1]
    return f"--{OPTIONS.get(name, name).replace('_', '-')} {shlex.quote(str(value))}"


def _score(score: float | None, found: dict[str, Any]) -> tuple[str, str]:
    """The cells of one split."""
    return ("not measured", "-") if score is None else (f"{score:.2f}", str(found.get("best_epoch")))


def _table(columns: tuple[str, ...], rows: Mapping[str, tuple[str, ...]]) -> str:
    """A Markdown table with the rows' names before its columns."""
    lines = [("", *columns), ("---",) * (len(columns) + 1), *((name, *cells) for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
