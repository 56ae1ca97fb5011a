"""`read-cache evaluate`: metrics of trained networks on a store."""

from pathlib import Path
from typing import Annotated

import typer

from read_cache.api import evaluate as run_evaluate
from read_cache.cli.output import print_json, print_table
from read_cache.cli.settings import given, option
from read_cache.config import EvaluateConfig


def evaluate(
    store: Annotated[str, typer.Option(help="The store to evaluate on.")],
    network: Annotated[
        list[Path] | None,
        typer.Option(metavar="<path>", help="A network, or a folder of networks; may be repeated."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="validation or test. [default: test, or validation if there is no test split]")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Add the majority class and the untrained backbone.")
    ] = False,
    batch_size: Annotated[int | None, option(EvaluateConfig, "batch_size")] = None,
    memory: Annotated[float | None, option(EvaluateConfig, "memory")] = None,
    device: Annotated[str | None, option(EvaluateConfig, "device")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Print metrics of networks on a store.

    Metrics are times 100. The backbone is not needed.
    """
    chosen = given(batch_size=batch_size, memory=memory, device=device)
    table = run_evaluate(store, network or [], split=split, baselines=baselines, **chosen)
    if json:
        print_json(table)
    else:
        print_table(table.columns, [[row.get(column) for column in table.columns] for row in table])
