"""`read-cache plan`: what a store and its training will take, before either is begun."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from read_cache.cli.extract import STORE, DatasetOption, ModelOption, TaskOption
from read_cache.cli.output import print_table, say, watching
from read_cache.cli.settings import SetOption, TrainSetOption, parse_set, takes
from read_cache.cli.train import RecipeOption
from read_cache.config import ExtractConfig, ExtractPlace
from read_cache.settings import read_settings
from read_cache.store.reader import array_bytes

if TYPE_CHECKING:
    from read_cache.planning import Forecast


@takes(STORE)
def plan(
    model: ModelOption,
    task: TaskOption,
    dataset: DatasetOption = None,
    recipe: RecipeOption = None,
    sample_rows: Annotated[
        int, typer.Option(min=0, help="Extract and train on at least this many training rows; 0 prints bytes alone.")
    ] = 64,
    settings: SetOption = [],  # noqa: B006
    train_settings: TrainSetOption = [],  # noqa: B006
    **chosen: Any,
) -> None:
    """Predict the size and time of extraction and training.

    Bytes are exact. Times come from running both stages on a sample of the rows. --set takes settings of extraction,
    --train-set those of training.
    """
    from read_cache.api.training import read_recipe
    from read_cache.planning import forecast
    from read_cache.training.recipe import side_networks

    device = {name: value for name, value in chosen.items() if name == "device"}
    chosen |= parse_set(settings, [ExtractConfig, ExtractPlace])
    config, place = read_settings(chosen, ExtractConfig, ExtractPlace)
    networks, training_place = read_recipe(recipe, side_networks(), train_settings, device)
    with watching() as watch:
        found = forecast(
            model,
            task,
            dataset=dataset,
            extract=config,
            place=place,
            recipe=networks,
            training_place=training_place,
            sample_rows=sample_rows,
            watch=watch,
        )
    print_plan(model, found)


def print_plan(model: str, found: "Forecast") -> None:
    """Print the tables of a plan."""
    manifest = found.manifest
    tokens = sum(split.tokens for split in manifest.splits.values())
    rows = ", ".join(f"{name} {split.examples:,}" for name, split in manifest.splits.items())
    say(f"{model}: {manifest.backbone.parameters / 1e6:.1f} M parameters")
    say(f"{manifest.task.name}: {rows} examples, {tokens:,} tokens")
    sizes = array_bytes(manifest)
    activations = sum(sizes.values())
    sizes |= {"tokens, labels, head": found.other_bytes, "together": activations + found.other_bytes}
    cells = [(name, decimal(count), f"{count / tokens:,.0f}") for name, count in sizes.items()]
    print_table(("array", "size", "bytes a token"), cells, "the store")
    # stores of few positions are small, and lose points with a low rank
    if manifest.format.positions == "all" and (smaller := found.recommended_bytes) < activations:
        options = f"--dtype int8 --rank {found.recommended.rank}"
        options += "" if manifest.format.attention == "none" else " --set attention_dtype=uint8"
        say(f"recommended, {options}: {decimal(smaller)} of activations, {smaller / tokens:,.0f} bytes a token")
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
