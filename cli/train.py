"""`read-cache train`: stage two. `read-cache finetune`: live methods, for comparison."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import read_cache
from read_cache.cli.output import print_json, print_table, say, watching
from read_cache.cli.settings import SetOption, options, takes
from read_cache.config import Place, RunConfig
from read_cache.networks.read import ReadConfig
from read_cache.training.network_config import NetworkConfig

if TYPE_CHECKING:
    from read_cache.api.training import Results

StoreOption = Annotated[
    list[str], typer.Option(metavar="<str>", help="A store, or a folder of stores; may be repeated.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder of networks and results.jsonl. [default: runs/A for the store stores/A]")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(help="A TOML file, or paper, table2, sample or sample-untied. Options replace its settings."),
]
LiveRecipeOption = Annotated[str | None, typer.Option(help="A TOML file. Options replace its settings.")]
LogOption = Annotated[
    list[str],
    typer.Option("--log", metavar="<str>", help="Log to tensorboard, mlflow or wandb (extras); may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
RATES, RUN = options(NetworkConfig, "lr", "seed", repeat=True), options(RunConfig, "epochs", "batch_size")


@takes(options(ReadConfig, "cell", "hidden", repeat=True) | RATES | RUN | options(Place, "memory", "device", "engine"))
def train(
    store: StoreOption,
    out: OutOption = None,
    recipe: RecipeOption = None,
    network: Annotated[
        list[str],
        typer.Option(
            metavar="<str>",
            help="read, read_matching, ladder, side_tuning, layer_probe or probe; may be repeated. [default: read]",
        ),
    ] = [],  # noqa: B006
    log: LogOption = [],  # noqa: B006
    settings: SetOption = [],  # noqa: B006
    json: JsonOption = False,
    **chosen: Any,
) -> None:
    """Train side networks from stores alone.

    No backbone is needed. Several values of a setting make a grid. All its networks train in one pass over each
    store per epoch.
    """
    chosen |= {"network": network} if network else {}
    with watching() as watch:
        results = read_cache.train(store, out, recipe=recipe, callbacks=log, watch=watch, texts=settings, **chosen)
    show(results, json)


@takes(RATES | RUN | options(Place, "device", "engine"))
def finetune(
    store: StoreOption,
    method: Annotated[
        list[str],
        typer.Option(
            metavar="<str>",
            help="full, bitfit, adapter, lora, ia3, prompt, prefix, meft, safe, or frozen_ and a network of `train`, "
            "such as frozen_read; may be repeated. [default: full]",
        ),
    ] = [],  # noqa: B006
    out: OutOption = None,
    recipe: LiveRecipeOption = None,
    log: LogOption = [],  # noqa: B006
    settings: SetOption = [],  # noqa: B006
    json: JsonOption = False,
    **chosen: Any,
) -> None:
    """Train live methods, such as LoRA, on a store's rows.

    The backbone runs in every step. Rows, order, schedule and metric are those of `train`, for comparison.
    """
    chosen |= {"method": method} if method else {}
    with watching() as watch:
        results = read_cache.finetune(store, out, recipe=recipe, callbacks=log, watch=watch, texts=settings, **chosen)
    show(results, json)


def show(results: "Results", json: bool) -> None:
    """Print a row for each network, by task and then by validation metric, and the results of the final seeds."""
    if json:
        print_json([result.values() for result in results.results])
        return
    ranked = sorted(zip(results.results, results, strict=True), key=lambda pair: pair[0].score, reverse=True)
    rows = [list(row.values()) for _, row in sorted(ranked, key=lambda pair: pair[0].task)]
    print_table(results.columns, rows)
    if finals := results.finals:
        print_table(finals.columns, [list(final.values()) for final in finals], "best by validation, over the seeds")
    say(f"networks and results.jsonl are in {Path(results.results[0].folder).parent.parent}")
