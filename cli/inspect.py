"""`read-cache inspect`: what a store or a network holds."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from read_cache.cli.output import print_json, print_table, say, size
from read_cache.layers import format_layers
from read_cache.meters.sessions import read_sessions
from read_cache.networks.saved import load_network
from read_cache.report.measured import measured
from read_cache.store.files import is_remote
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader, array_bytes


def inspect(
    path: Annotated[str, typer.Argument(help="A store, a folder or URL, or a network's folder.")],
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """What a store holds and its sizes by array, or what a network is and what it belongs to."""
    if not is_remote(path) and (Path(path) / "config.json").exists():
        _inspect_network(Path(path), json)
    else:
        _inspect_store(StoreReader(path), json)


def _inspect_store(store: StoreReader, json: bool) -> None:
    manifest, sizes = store.manifest, array_bytes(store.manifest)
    tokens = sum(split.tokens for split in manifest.splits.values())
    readings = read_sessions(store.folder.files)
    if json:
        found = {"manifest": dataclasses.asdict(manifest), "digest": manifest.digest, "bytes": sizes}
        print_json(found | {"meters": readings.to_json() if readings else None})
        return
    backbone = manifest.backbone
    say(f"store {store.folder.path}, sealed, digest {manifest.digest[:12]}")
    facts = {
        "backbone": f"{backbone.name} ({backbone.model_type}, {backbone.encoder_layers} + {backbone.decoder_layers} "
        f"layers, width {backbone.width}, {backbone.parameters / 1e6:.1f} M parameters)",
        "backbone digest": backbone.digest[:12],
        "task": f"{manifest.task.name}, {manifest.task.metric}",
        "rows from": manifest.dataset,
        "labels": ", ".join(manifest.task.labels) or "open target",
        "stored": stored_as(manifest),
        "sources": f"at most {manifest.max_source_length} tokens",
    }
    print_table(("", ""), facts.items())
    print_table(
        ("split", "examples", "parts", "tokens", "decoder nodes"),
        [(name, s.examples, s.parts, s.tokens, s.nodes) for name, s in manifest.splits.items()],
    )
    rows = [(name, size(count), f"{count / tokens:,.0f}") for name, count in sizes.items()]
    total = sum(sizes.values())
    print_table(("array", "size", "bytes a token"), [*rows, ("together", size(total), f"{total / tokens:,.0f}")])
    if readings:
        sessions = f"{readings.sessions} session{'s' if readings.sessions > 1 else ''}"
        print_table((f"filled in {sessions}", ""), measured([readings.to_json()]))
    else:
        say("no session that filled it kept its readings")


def stored_as(manifest: Manifest) -> str:
    """A store's form in words."""
    form = manifest.form
    rank = f" in {form.rank} components" if form.rank else ""
    weights = form.attention if form.attention == "none" else f"{form.attention} in {form.attention_dtype}"
    layers = f"{format_layers(form.encoder_layers)} + {format_layers(form.decoder_layers)}"
    return f"{form.dtype} states{rank} of layers {layers}, computed in {manifest.compute_dtype}; attention {weights}"


def _inspect_network(path: Path, json: bool) -> None:
    trained = load_network(path)
    record, count = trained.record, sum(parameter.numel() for parameter in trained.network.parameters())
    facts = {
        "network": record.name,
        "task": record.task.name,
        "backbone": f"{record.backbone} ({record.backbone_digest[:12]})",
        "parameters": f"{count:,} ({record.training['parameters_percent']:.2f}% of the backbone)",
        **dataclasses.asdict(record.read),
        **{name: value for name, value in record.training.items() if "parameters" not in name},
    }
    if json:
        print_json(dataclasses.asdict(record) | {"parameters": count})
    else:
        print_table(("", ""), [(name, str(value)) for name, value in facts.items()])
