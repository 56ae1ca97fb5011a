"""`read-cache train`: stage two."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from read_cache.cli.output import print_json, print_table, say
from read_cache.cli.stores import all_stores
from read_cache.cli.training import run_training
from read_cache.networks.config import ReadConfig
from read_cache.report.aggregate import best_first, by_store, spread
from read_cache.train.grid import DEFAULT_MEMORY, NetworkConfig, TrainConfig, check_network
from read_cache.train.recipe import NETWORK, RUN, Recipe
from read_cache.train.recipe_file import load_recipe
from read_cache.train.sweep import search_networks, train_best


def train(
    context: typer.Context,
    store: Annotated[list[str], typer.Option(help="A store, or a folder of stores; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Where networks and results.jsonl go.")],
    recipe: Annotated[
        str | None,
        typer.Option(help="A TOML file, or one of paper, table2, sample. Options on the command line come before it."),
    ] = None,
    cell: Annotated[
        list[str], typer.Option(help="rnn, gru or lstm. Options up to --seed that may be repeated make a grid.")
    ] = [ReadConfig.cell],  # noqa: B006
    hidden: Annotated[list[int], typer.Option(help="Width of the side network.")] = [ReadConfig.hidden],  # noqa: B006
    recurrent: Annotated[
        bool, typer.Option("--recurrent/--untied", help="One set of weights for all layers, or one set a layer.")
    ] = ReadConfig.recurrent,
    attention: Annotated[
        list[str], typer.Option(help="The Joiner's weights: mean, heads or none.", show_default="what the store holds")
    ] = [],  # noqa: B006
    aggregate: Annotated[list[str], typer.Option(help="Layers the correction comes from: last or mean.")] = [  # noqa: B006
        ReadConfig.aggregate
    ],
    initial_state: Annotated[list[str], typer.Option(help="h_0: embeddings, or zero as in the paper.")] = [  # noqa: B006
        ReadConfig.initial_state
    ],
    embedding_gain: Annotated[
        list[float], typer.Option(help="What is multiplied in h_0 before its tanh; 4 helps a small backbone.")
    ] = [ReadConfig.embedding_gain],  # noqa: B006
    residual: Annotated[
        list[float], typer.Option(help="What phi_N is multiplied with in y; 0 leaves the frozen logits out.")
    ] = [ReadConfig.residual],  # noqa: B006
    matching: Annotated[
        list[int],
        typer.Option(
            help="Width in which a token looks for its like in the row; 0: it does not. 64 helps "
            "where texts are compared and the backbone has not learnt to."
        ),
    ] = [ReadConfig.matching],  # noqa: B006
    dropout: Annotated[list[float], typer.Option(help="On the normalised states.")] = [ReadConfig.dropout],  # noqa: B006
    standardize: Annotated[
        bool, typer.Option("--standardize/--no-standardize", help="Channels of each layer; the paper does not.")
    ] = ReadConfig.standardize,
    layers: Annotated[list[str], typer.Option(help="Layers it runs over, such as 2,4,6-12.")] = [ReadConfig.layers],  # noqa: B006
    learning_rate: Annotated[list[float], typer.Option("--lr", help="Peak learning rate.")] = [  # noqa: B006
        NetworkConfig.learning_rate
    ],
    seed: Annotated[list[int], typer.Option(help="First weights and dropout.")] = [NetworkConfig.seed],  # noqa: B006
    epochs: Annotated[int, typer.Option(help="At most this many.")] = TrainConfig.epochs,
    patience: Annotated[int, typer.Option(help="Epochs without a better metric.")] = TrainConfig.patience,
    halving: Annotated[
        int, typer.Option(help="Every so many epochs the worse half of the networks stops; 0: never.")
    ] = TrainConfig.halving,
    batch_size: Annotated[int, typer.Option(help="Examples in a batch.")] = TrainConfig.batch_size,
    warmup: Annotated[float, typer.Option(help="Share of the steps.")] = TrainConfig.warmup,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = TrainConfig.weight_decay,
    clip: Annotated[float, typer.Option(help="Largest gradient norm.")] = TrainConfig.clip,
    order_seed: Annotated[int, typer.Option(help="Order of the examples.")] = TrainConfig.order_seed,
    window: Annotated[int, typer.Option(help="Parts whose examples are shuffled together.")] = TrainConfig.window,
    memory: Annotated[
        float, typer.Option(help="GB for parts of the store; what fits is kept. Batches do not change.")
    ] = DEFAULT_MEMORY,
    precision: Annotated[
        Literal["bf16", "fp32"], typer.Option(help="Of products in training.")
    ] = TrainConfig.precision,
    device: Annotated[str, typer.Option(help="Where the networks train: cpu, cuda …")] = "cpu",
    stack: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(help="Like networks step together; auto: beside an accelerator. Sums are rounded otherwise."),
    ] = "auto",
    p0: Annotated[
        float | None,
        typer.Option(help="Watts at full utilisation, for energy by Eq. 4.", show_default="the board's limit"),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Scalars of every network to OUT/tensorboard.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train READ side networks from stores alone. Repeated options make a grid; every network sees every batch."""
    from read_cache.train.scalars import Scalars

    chosen = (load_recipe(recipe) if recipe else Recipe()).override(given_settings(context))
    folders = {folder.path: folder for folder in all_stores(store)}
    manifests = {path: folder.read_manifest() for path, folder in folders.items()}
    absent = sorted(set(chosen.tasks) - {manifest.task.name for manifest in manifests.values()})
    if absent and str(recipe).endswith(".toml"):  # a bundled one names tasks that most folders lack
        say(f"no store here is of task {', '.join(absent)}, which the recipe names")
    plans = {path: chosen.plan(found.task.name, found.form.attention) for path, found in manifests.items()}
    for path, plan in plans.items():  # before the first of them trains for days
        for read in plan.reads():
            check_network(read, manifests[path])
    scalars = Scalars(out / "tensorboard") if tensorboard else None
    results: list[dict] = []
    finals: list[list[dict]] = []
    for path, plan in plans.items():
        trainer = functools.partial(
            run_training, folders[path], out, scalars=scalars, device=device, memory=memory, stacking=stack, p0_watts=p0
        )
        found = search_networks(plan, trainer)
        final = train_best(plan, found, trainer)
        results += found + [result for result in final if result not in found]
        finals += [final] if final else []
    if json:
        print_json(results)
    else:
        print_results(results)
        if finals:
            print_finals(finals)
        say(f"networks and results.jsonl are in {out}")


def given_settings(context: typer.Context) -> dict[str, Any]:
    """The settings of networks and runs that stand on the command line, as a recipe has them."""
    given = {
        name: value
        for name, value in context.params.items()
        if name in NETWORK | RUN and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    return {name: value if name in RUN or isinstance(value, list) else [value] for name, value in given.items()}


def print_results(results: Sequence[dict]) -> None:
    """One row a network, best validation first within each store."""
    columns = ("task", "network", "validation", "test", "epoch", "parameters", "% of backbone")
    shown = ("network", "validation", "test", "best_epoch", "parameters", "parameters_percent")
    rows = [
        [store.title, *(row[name] for name in shown)]
        for store in by_store(results)
        for row in best_first(store.results)
    ]
    print_table(columns, rows)


def print_finals(finals: Sequence[Sequence[dict]]) -> None:
    """One row a store: its best network by validation, mean and deviation over the final seeds."""
    rows = []
    titles = {store.digest: store.title for store in by_store([result for results in finals for result in results])}
    for results in finals:
        name = results[0]["network"].rpartition("-seed")[0]
        scores = [over_seeds([result[split] for result in results]) for split in ("validation", "test")]
        rows.append([titles[results[0]["store_digest"]], name, len(results), *scores])
    print_table(("task", "best by validation", "seeds", "validation", "test"), rows)


def over_seeds(scores: Sequence[float | None]) -> str:
    """Mean ± deviation of a sample; a dash where a score is missing."""
    return "-" if None in scores else str(spread(scores) or "-")
