"""`read-cache train`: stage two."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from read_cache.cli.output import print_json, print_table, progress_bar, say, stderr
from read_cache.networks.config import Aggregate, Cell, InitialState, ReadConfig
from read_cache.store.manifest import StoreFolder, find_stores
from read_cache.store.schema import Attention
from read_cache.train.grid import DEFAULT_MEMORY, NetworkConfig, TrainConfig, grid


def train(
    store: Annotated[list[str], typer.Option(help="A store, or a folder of stores; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Where networks and results.jsonl go.")],
    cell: Annotated[
        list[str], typer.Option(help="rnn, gru or lstm. Repeat any option up to --seed to make a grid.")
    ] = [ReadConfig.cell],  # noqa: B006
    hidden: Annotated[list[int], typer.Option(help="Width of the side network.")] = [ReadConfig.hidden],  # noqa: B006
    recurrent: Annotated[
        bool, typer.Option("--recurrent/--untied", help="One set of weights for all layers, or one set a layer.")
    ] = ReadConfig.recurrent,
    attention: Annotated[
        Attention | None, typer.Option(help="The Joiner's attention weights.", show_default="what the store holds")
    ] = None,
    aggregate: Annotated[Aggregate, typer.Option(help="Layers the correction comes from.")] = ReadConfig.aggregate,
    initial_state: Annotated[list[str], typer.Option(help="h_0: embeddings, or zero as in the paper.")] = [  # noqa: B006
        ReadConfig.initial_state
    ],
    dropout: Annotated[list[float], typer.Option(help="On the normalised states.")] = [ReadConfig.dropout],  # noqa: B006
    standardize: Annotated[
        bool, typer.Option("--standardize/--no-standardize", help="Channels of each layer; the paper does not.")
    ] = ReadConfig.standardize,
    layers: Annotated[list[str], typer.Option(help="Layers it runs over, such as 2,4,6-12.")] = [ReadConfig.layers],  # noqa: B006
    lr: Annotated[list[float], typer.Option(help="Peak learning rate.")] = [NetworkConfig.learning_rate],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="First weights and dropout.")] = [NetworkConfig.seed],  # noqa: B006
    epochs: Annotated[int, typer.Option(help="At most this many.")] = TrainConfig.epochs,
    patience: Annotated[int, typer.Option(help="Epochs without a better metric.")] = TrainConfig.patience,
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
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train READ side networks from stores alone. Repeated options make a grid; every network sees every batch."""
    run = TrainConfig(epochs, patience, batch_size, warmup, weight_decay, clip, order_seed, window, precision)
    folders = {folder.path: folder for path in store for folder in find_stores(path)}
    results = []
    for folder in folders.values():
        kept = folder.read_manifest().form.attention
        choices = itertools.product(cell, hidden, initial_state, dropout, layers)
        reads = [
            ReadConfig(
                cast(Cell, c), h, recurrent, attention or kept, aggregate, cast(InitialState, i), d, standardize, chosen
            )
            for c, h, i, d, chosen in choices
        ]
        results += run_training(folder, out, grid(reads, lr, seed), run, device, memory)
    if json:
        print_json(results)
    else:
        print_results(results)
        say(f"networks and results.jsonl are in {out}")


def run_training(
    folder: StoreFolder,
    out: Path,
    networks: Sequence[NetworkConfig],
    run: TrainConfig,
    device: str = "cpu",
    memory: float = DEFAULT_MEMORY,
) -> list[dict]:
    """Train on one store with progress on stderr."""
    from read_cache.train.learner import Learner
    from read_cache.train.run import Progress, train_store

    with progress_bar() as bar:
        row = bar.add_task(str(folder.path), total=None)

        def before(task: str, networks: int, tier: str) -> None:
            say(f"{task}: {networks} networks, one read an epoch; the training split is {tier}")

        def after_batch(task: str, done: int, total: int) -> None:
            bar.update(row, completed=done, total=total)

        def after_epoch(task: str, epoch: int, epochs: int, learners: Sequence[Learner]) -> None:
            best = max(learners, key=lambda x: max((e["validation"] for e in x.history), default=float("-inf")))
            training = sum(not learner.stopped for learner in learners)
            if best.history:
                score = best.history[best.best_epoch]["validation"]
                told = f"{task} epoch {epoch}: {training} training, best {score:.2f}"
                bar.update(row, description=told)
                if not stderr.is_terminal:  # a log file shows no bar until the end
                    remaining = bar.tasks[row].time_remaining
                    say(f"{told}, {remaining or 0:.0f} s left at most")

        results = train_store(
            folder, out, list(networks), run, device, Progress(before, after_epoch, after_batch), memory
        )
    for result in results:
        if result["stopped"].startswith("loss became"):
            say(f"{result['task']}/{result['network']} stopped: {result['stopped']}; try a smaller --lr")
    return results


def print_results(results: Sequence[dict]) -> None:
    """One row a network, best validation first within each task."""
    rows = sorted(results, key=lambda r: (r["task"], -(r["validation"] or float("-inf"))))
    columns = ("task", "network", "validation", "test", "epoch", "parameters", "% of backbone")
    shown = ("task", "network", "validation", "test", "best_epoch", "parameters", "parameters_percent")
    print_table(columns, [[row[name] for name in shown] for row in rows])
