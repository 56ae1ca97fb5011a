"""`read-cache plan`: what a store and its training will take, before either is begun."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from read_cache.cli.extract import (
    AttentionOption,
    DatasetOption,
    DeviceOption,
    DtypeOption,
    LayersOption,
    MaxExamplesOption,
    ModelOption,
    PositionsOption,
    RankOption,
    TaskOption,
)
from read_cache.cli.output import print_json, print_table, say, size
from read_cache.cli.settings import SetOption, given, parse_set
from read_cache.cli.train import RecipeOption
from read_cache.config import ExtractConfig, ExtractPlace, Place, PlanConfig
from read_cache.settings import Settings, split_texts

if TYPE_CHECKING:
    from read_cache.planning.forecast import Forecast


def plan(
    model: ModelOption,
    task: TaskOption,
    dataset: DatasetOption = None,
    dtype: DtypeOption = None,
    rank: RankOption = None,
    layers: LayersOption = None,
    attention: AttentionOption = None,
    positions: PositionsOption = None,
    max_examples: MaxExamplesOption = None,
    device: DeviceOption = None,
    recipe: RecipeOption = None,
    settings: SetOption = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Predict the size and time of both stages.

    Bytes are exact. Times come from running both stages on a sample of the rows. A model without weights gets random
    ones: its configuration and tokenizer are enough.
    """
    from read_cache.api.training import ALIASES
    from read_cache.planning.forecast import forecast
    from read_cache.training.recipe import Recipe, load_recipe, side_networks

    written, formats = split_texts(settings), {"dtype": dtype, "rank": rank, "layers": layers}
    formats |= {"attention": attention, "positions": positions}
    known = {name for each in (PlanConfig, ExtractConfig, ExtractPlace, Place) for name in each.model_fields}
    known.remove("seed")  # in a plan it is that of networks

    def settings_of(model: type[Settings], **options: object) -> Any:
        texts = [f"{name}={value}" for name, value in written.items() if name in known & model.model_fields.keys()]
        return model(**parse_set(texts, [model]) | given(**options))

    of_networks = {ALIASES.get(name, name): value for name, value in written.items() if name not in known}
    found = forecast(
        model,
        task,
        dataset=dataset,
        extract=settings_of(ExtractConfig, **formats, max_examples=max_examples),
        place=settings_of(ExtractPlace, device=device),
        recipe=(load_recipe(recipe, side_networks()) if recipe else Recipe()).override(of_networks, text=True),
        training_place=settings_of(Place, device=device),
        sample_rows=settings_of(PlanConfig).sample_rows,
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
    tables = {"array": arrays | {"together": sum(arrays.values())}, "format": found.formats}
    for (kind, sizes), title in zip(tables.items(), ("the store", "activations in other formats"), strict=True):
        cells = [(name, size(count), f"{count / tokens:,.0f}") for name, count in sizes.items()]
        print_table((kind, "size", "bytes a token"), cells, title)
    networks = f"{found.networks} network{'s' * (found.networks > 1)}"
    details = {"training": f", {networks}, {found.epochs} epochs, training split: {found.tier}"}
    for name, seconds in found.stages.items():
        times = [(work, duration(taken)) for work, taken in seconds.items()]
        print_table((name, "takes"), times, name + details.get(name, ""))


def duration(seconds: float) -> str:
    """Return seconds for people."""
    for unit, length in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 120 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"
