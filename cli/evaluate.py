"""`read-cache evaluate`: metrics of trained networks on a store. `read-cache ensemble`: networks saved as one."""

from pathlib import Path
from typing import Annotated, Any

import typer

import read_cache
from read_cache.cli.output import print_json, print_table, say
from read_cache.cli.settings import options, takes
from read_cache.config import EvaluateConfig


@takes(options(EvaluateConfig, "batch_size", "memory", "device"))
def evaluate(
    store: Annotated[str, typer.Option(help="The store to evaluate on.")],
    network: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>", help="A network, a folder of networks, or OWNER/NAME on the hub; may be repeated."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="validation, test or validation_and_test. [default: test, or validation if there is no test split]"
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Add the scores of the majority class and of the backbone without training."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    **chosen: Any,
) -> None:
    """Print metrics of networks on a store.

    Metrics are multiplied by 100. No backbone is needed.
    """
    table = read_cache.evaluate(store, network or [], split=split, baselines=baselines, **chosen)
    if json:
        print_json(table)
    else:
        print_table(table.columns, [[row.get(column) for column in table.columns] for row in table])


def ensemble(
    networks: Annotated[list[Path], typer.Argument(help="Networks of one store, or folders of networks.")],
    out: Annotated[Path, typer.Option(help="Folder of the new network.")],
    top: Annotated[
        int | None, typer.Option(help="Take only this many networks: the best by validation metric. [default: all]")
    ] = None,
) -> None:
    """Save several trained networks as one network that averages them.

    It averages their probabilities, or their scores. `evaluate`, `predict` and `attach` take its folder.
    """
    members = read_cache.ensemble(networks, out, top=top)
    say(f"{out} averages {len(members)} networks: {', '.join(members)}")
