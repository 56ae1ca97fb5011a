"""`read-cache ensemble`: trained networks of one task, saved as one network."""

from pathlib import Path
from typing import Annotated

import typer

from read_cache.api import ensemble as save_ensemble
from read_cache.cli.output import say


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
    members = save_ensemble(networks, out, top=top)
    say(f"{out} averages {len(members)} networks: {', '.join(members)}")
