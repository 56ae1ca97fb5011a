"""`read-cache inspect`: facts of a store, and a picture of its activations."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

import read_cache
from read_cache.cli.output import print_json, print_table, say
from read_cache.cli.settings import options, takes
from read_cache.config import InspectConfig
from read_cache.errors import UserError
from read_cache.layers import format_layers
from read_cache.meters.readings import read_sessions, summary
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest
from read_cache.store.reader import array_bytes


@takes(options(InspectConfig, "sample_rows"))
def inspect(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store.")],
    plot: Annotated[Path | None, typer.Option(help="Write a picture of the activations to this .png file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
    **chosen: Any,
) -> None:
    """Print the facts of a store, and draw its activations.

    The picture shows lengths of texts, norms of hidden states and entropy of attention by layer, and the similarity of
    layers. Chunks are not checked; `verify` checks them.
    """
    if plot and plot.suffix != ".png":
        raise UserError(f"the picture is {plot}, expected a name that ends in .png")
    folder = StoreFolder(store)
    manifest = folder.read_manifest() if folder.sealed or plot else folder.read_plan() or folder.read_manifest()
    splits = {
        name: {"rows": split.examples, "tokens": split.tokens, "parts": split.parts}
        for name, split in manifest.splits.items()
    }
    named, arrays = facts(folder, manifest), array_bytes(manifest)
    if json:
        print_json({"facts": named, "splits": splits, "bytes": arrays})
    else:
        print_table(("fact", "value"), [*named.items()])
        print_table(("split", "rows", "tokens", "parts"), [(name, *row.values()) for name, row in splits.items()])
        tokens = sum(row["tokens"] for row in splits.values())
        sizes = [(name, decimal(count), f"{count / tokens:,.0f}") for name, count in arrays.items()]
        print_table(("array", "size", "bytes a token"), sizes)
    if plot:
        from read_cache.networks.saved import replacing
        from read_cache.report.inspection import activations_figure
        from read_cache.report.pictures import png

        found = read_cache.inspect(store, **chosen)
        with replacing(plot) as unfinished:
            plot.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(png(activations_figure(found)))
        for name, reason in found.left_out.items():
            say(f"left out, {name}: {reason}")
        say(f"the picture is {plot}")


def facts(folder: StoreFolder, manifest: Manifest) -> dict[str, str]:
    """Return what a store holds, by name."""
    backbone, task, format = manifest.backbone, manifest.task, manifest.format
    labels = ", ".join(task.labels) if 0 < len(task.labels) < 7 else f"{len(task.labels) or 'no'} labels"
    states = f"{format.rank} components of each state" if format.rank else "whole states"
    weights = "" if format.attention == "none" else f" in {format.attention_dtype}"
    readings = read_sessions(folder.files)
    return {
        "complete": "yes" if folder.sealed else "no: its extraction has not ended",
        "backbone": f"{backbone.name} ({backbone.family}, {backbone.parameters / 1e6:.1f} M parameters)",
        "task": f"{task.name}: {task.metric}, {labels}",
        "texts": f"at most {manifest.activations.max_source_length} tokens",
        **{
            stack.name: f"layers {format_layers(format.layers[stack.name])} of {stack.layers}, width {stack.width}, "
            f"{stack.heads} heads"
            for stack in backbone.stacks
        },
        "states": f"{format.dtype}, {states}, {format.positions} positions; computed in "
        f"{manifest.activations.compute_dtype}",
        "attention": f"{format.attention}{weights}",
        "extraction": summary(readings).partition(": ")[2] if readings else "no readings",
        "identity": manifest.identity,
    }
