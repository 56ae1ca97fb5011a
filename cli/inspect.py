"""`read-cache inspect`: what a store or a network holds."""

from pathlib import Path
from typing import Annotated

import typer

from read_cache.cli.output import print_json, print_table, say, size
from read_cache.layers import format_layers
from read_cache.meters.readings import summary
from read_cache.meters.sessions import read_sessions
from read_cache.networks.saved import load_network
from read_cache.store.files import is_remote
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader, array_bytes


def inspect(
    path: Annotated[str, typer.Argument(help="Folder or URL of a store, or folder of a network.")],
    json: Annotated[bool, typer.Option("--json", help="Print the description as JSON.")] = False,
) -> None:
    """Describe a store or a network.

    Of a store: backbone, rows, format, and size by array. Of a network: settings, scores, and its backbone.
    """
    if not is_remote(path) and (Path(path) / "config.json").exists():
        _inspect_network(Path(path), json)
    else:
        _inspect_store(StoreReader(path), json)


def _inspect_store(store: StoreReader, json: bool) -> None:
    manifest, sizes = store.manifest, array_bytes(store.manifest)
    tokens = sum(split.tokens for split in manifest.splits.values())
    readings = read_sessions(store.folder.files)
    if json:
        sections = (manifest.activations, manifest.task_record, manifest.provenance)
        values = {
            name: part.values() for name, part in zip(("activations", "task", "provenance"), sections, strict=True)
        }
        digests = {"digest": manifest.digest, "identity": manifest.identity, "bytes": sizes}
        print_json(values | digests | {"meters": readings.to_json() if readings else None})
        return
    say(f"store {store.folder.path}, sealed, identity {manifest.identity[:12]}")
    print_table(("", ""), store_facts(manifest).items())
    stacks = [stack.name for stack in manifest.backbone.stacks]
    print_table(
        ("split", "examples", "parts", *(f"{name} positions" for name in stacks)),
        [(n, s.examples, s.parts, *(s.positions[name] for name in stacks)) for n, s in manifest.splits.items()],
    )
    rows = [(name, size(count), f"{count / tokens:,.0f}") for name, count in sizes.items()]
    total = sum(sizes.values())
    print_table(("array", "size", "bytes a token"), [*rows, ("together", size(total), f"{total / tokens:,.0f}")])
    say(summary(readings) if readings else "the extraction's readings were not kept")


def store_facts(manifest: Manifest) -> dict[str, str]:
    """Return a store's properties as text."""
    backbone, format = manifest.backbone, manifest.format
    stacks = ", ".join(f"{stack.name} of {stack.layers} layers, width {stack.width}" for stack in backbone.stacks)
    components = f" in {format.rank} components" if format.rank else ""
    weights = format.attention if format.attention == "none" else f"{format.attention} in {format.attention_dtype}"
    layers = ", ".join(f"{stack} {format_layers(kept)}" for stack, kept in format.layers.items())
    return {
        "backbone": f"{backbone.name} ({backbone.family}: {stacks}; {backbone.parameters / 1e6:.1f} M parameters)",
        "backbone digest": backbone.digest[:12],
        "task": f"{manifest.task.name}, {manifest.task.metric}",
        "rows from": manifest.provenance.dataset,
        "labels": ", ".join(manifest.task.labels) or "open target",
        "stored": f"{format.dtype} states{components}, computed in {manifest.activations.compute_dtype}; "
        f"attention {weights}; layers: {layers}; positions: {format.positions}",
        "sources": f"at most {manifest.activations.max_source_length} tokens",
    }


def _inspect_network(path: Path, json: bool) -> None:
    trained = load_network(path)
    record, weights = trained.record, [*trained.network.parameters(), *trained.head_weights.values()]
    count = sum(weight.numel() for weight in weights)
    if json:
        print_json(record.values() | {"parameters": count})
        return
    facts = {
        "network": record.name,
        "kind": record.kind,
        "task": record.task.name,
        "backbone": f"{record.backbone.name} ({record.backbone.digest[:12]})",
        "parameters": f"{count:,}, {100 * count / record.backbone.parameters:.3g}% of the backbone's",
        **record.config,
        **{f"head.{name}": value for name, value in record.head.items()},
        **record.run,
        **{name: value for name, value in record.scores.items() if not name.startswith("parameters")},
    }
    print_table(("", ""), [(name, str(value)) for name, value in facts.items()])
