"""`read-cache plan`: what a store and its training will take, before either is begun."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from read_cache.cli.extract import DatasetOption, ModelOption, TaskOption
from read_cache.cli.output import print_json, print_table, say, size
from read_cache.cli.settings import SetOption, given, option, parse_set
from read_cache.cli.train import RecipeOption
from read_cache.config import ExtractConfig, ExtractPlace, Place, PlanConfig
from read_cache.settings import Settings, split_texts
from read_cache.store.schema import Attention, Dtype

if TYPE_CHECKING:
    from read_cache.planning.forecast import Forecast


def plan(
    model: ModelOption,
    task: TaskOption,
    dataset: DatasetOption = None,
    dtype: Annotated[Dtype | None, option(ExtractConfig, "dtype")] = None,
    rank: Annotated[int | None, option(ExtractConfig, "rank")] = None,
    layers: Annotated[str | None, option(ExtractConfig, "layers")] = None,
    attention: Annotated[Attention | None, option(ExtractConfig, "attention")] = None,
    max_examples: Annotated[int | None, option(ExtractConfig, "max_examples", default="all")] = None,
    device: Annotated[str | None, option(ExtractPlace, "device")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Give the exact bytes of a store, and seconds and memory of both stages from a sample of its rows.

    A model without weights is run with random ones: its configuration and tokenizer are enough.
    """
    from read_cache.api.training import ALIASES
    from read_cache.planning.forecast import forecast
    from read_cache.training.recipe import Recipe, load_recipe, side_networks

    written: dict[type[Settings], list[str]] = {each: [] for each in (PlanConfig, ExtractConfig, ExtractPlace, Place)}
    of_networks = {}
    for name, value in split_texts(settings).items():
        models = [each for each in written if name in each.model_fields and name != "seed"]  # that of networks
        for each in models:
            written[each].append(f"{name}={value}")
        if not models:
            of_networks[ALIASES.get(name, name)] = value
    values = {each: parse_set(texts, [each]) for each, texts in written.items()}
    values[ExtractConfig] |= given(
        dtype=dtype, rank=rank, layers=layers, attention=attention, max_examples=max_examples
    )
    values[ExtractPlace] |= given(device=device)
    values[Place] |= given(device=device)
    found = forecast(
        model,
        task,
        dataset=dataset,
        extract=ExtractConfig(**values[ExtractConfig]),
        place=ExtractPlace(**values[ExtractPlace]),
        recipe=(load_recipe(recipe, side_networks()) if recipe else Recipe()).override(of_networks, text=True),
        training_place=Place(**values[Place]),
        sample_rows=PlanConfig(**values[PlanConfig]).sample_rows,
        say=say,
    )
    if json:
        print_json(found.to_json())
    else:
        print_plan(model, found)


def print_plan(model: str, found: "Forecast") -> None:
    """Print the tables of a plan."""
    manifest = found.planned.manifest
    tokens = sum(split.tokens for split in manifest.splits.values())
    rows = ", ".join(f"{name} {split.examples:,}" for name, split in manifest.splits.items())
    say(f"{model}: {manifest.backbone.parameters / 1e6:.1f} M parameters ({found.planned.weights})")
    say(f"{manifest.task.name}: {rows} examples, {tokens:,} tokens")
    arrays = found.bytes | {"tokens, labels, head": found.planned.other_bytes}
    sizes = arrays | {"together": sum(arrays.values())}
    print_sizes("array", sizes, tokens, "the store")
    print_sizes("format", found.formats, tokens, "activations in other formats")
    for name, stage in found.stages.items():
        many = f", {found.networks} network{'s' * (found.networks > 1)}, {found.epochs} epochs, split in {found.tier}"
        table = [(work, duration(seconds)) for work, seconds in stage.seconds.items()]
        table += [(f"peak memory, {where}", size(peak)) for where, peak in stage.peak_bytes.items()]
        print_table((name, "takes"), table, f"{name}{many if name == 'training' else ''}")


def print_sizes(kind: str, sizes: Mapping[str, int], tokens: int, title: str) -> None:
    """Print a table of bytes."""
    rows = [(name, size(count), f"{count / tokens:,.0f}") for name, count in sizes.items()]
    print_table((kind, "size", "bytes a token"), rows, title)


def duration(seconds: float) -> str:
    """Return seconds for people."""
    for unit, length in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 120 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"
