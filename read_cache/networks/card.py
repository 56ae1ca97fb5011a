"""A network's model card: its scores, the command that made it, and what it belongs to."""

import importlib.metadata
import json
import shlex
from collections.abc import Mapping

from read_cache.layers import format_layers
from read_cache.networks.record import NetworkRecord

LIBRARIES = ("read-cache", "torch", "numpy", "zarr")


def model_card(record: NetworkRecord) -> str:
    """Return a README for people who find the folder; the same network and libraries give the same text."""
    scores, format = record.scores, record.format
    rows = {split: _score(scores.get(split), scores.get("best_epoch")) for split in ("validation", "test")}
    states = f"{format.dtype} in {format.rank} components" if format.rank else format.dtype
    layers = ", ".join(f"{format_layers(kept)} of the {stack}" for stack, kept in format.layers.items())
    weights = format.attention if format.attention == "none" else f"{format.attention} in {format.attention_dtype}"
    belongs = {
        "backbone": f"`{record.backbone.name}` ({record.backbone.family}), digest `{record.backbone.digest}`",
        "activations": f"digest `{record.activations_digest}`",
        "task": f"{record.task.name}: `{record.task.template}`",
        "labels": ", ".join(f"`{label}`" for label in record.task.labels) or f"open target `{record.task.target}`",
        "sources": f"at most {record.max_source_length} tokens",
        "stored": f"{states}, computed in {record.compute_dtype}; attention {weights}; layers {layers}",
        "parameters": f"{scores.get('parameters')}, {scores.get('parameters_percent')}% of the backbone's",
    }
    return f"""# {record.name} on {record.task.name}

A side network of kind `{record.kind}` for the frozen backbone `{record.backbone.name}`, trained by read-cache from
stored activations.

    read-cache predict --model {shlex.quote(record.backbone.name)} --network THIS_FOLDER TEXT

In Python, beside other networks of the same backbone:

    attached = read_cache.attach(backbone, ["THIS_FOLDER"])

## Scores

{_table((f"{record.task.metric}, times 100", "epoch"), rows)}

## How it was made

    {train_command(record)}

with {", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)}.

## What it belongs to

{_table(("",), {name: (value,) for name, value in belongs.items()})}
"""


def train_command(record: NetworkRecord) -> str:
    """Return the command that trains this network alone; STORE and OUT are placeholders."""
    values = record.config | {f"head.{name}": value for name, value in record.head.items()} | record.run
    settings = {name: value for name, value in values.items() if value is not None}
    words = ["read-cache", "train", "--store", "STORE", "--out", "OUT", "--network", record.kind]
    words += ["--lr", str(record.learning_rate), "--seed", str(record.seed)]
    for name, value in settings.items():
        words += ["--set", f"{name}={json.dumps(value) if isinstance(value, bool) else value}"]
    return " ".join(shlex.quote(word) for word in words)


def _score(score: float | None, epoch: int | None) -> tuple[str, str]:
    """Return the cells of one split."""
    return ("not measured", "-") if score is None else (f"{score:.2f}", str(epoch))


def _table(columns: tuple[str, ...], rows: Mapping[str, tuple[str, ...]]) -> str:
    """Return a Markdown table with the rows' names before its columns."""
    lines = [("", *columns), ("---",) * (len(columns) + 1), *((name, *cells) for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
