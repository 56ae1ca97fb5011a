"""`read-cache settings`: every setting, its default and what it does."""

from typing import Annotated

import typer

from read_cache.cli.output import print_json, print_table
from read_cache.cli.settings import setting_rows
from read_cache.errors import UserError
from read_cache.settings import Settings


def settings(
    command: Annotated[str, typer.Argument(help="extract, train, finetune, evaluate or predict.")],
    json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List every setting that `--set` and recipes take, with its default."""
    from read_cache.config import (
        EvaluateConfig,
        ExtractConfig,
        ExtractPlace,
        Place,
        PredictConfig,
        RunConfig,
        SearchConfig,
    )
    from read_cache.scoring.heads import HeadSettings

    models: dict[str, type[Settings]]
    if command == "extract":
        models = {"store": ExtractConfig, "place": ExtractPlace}
    elif command in ("evaluate", "predict"):
        models = {command: EvaluateConfig if command == "evaluate" else PredictConfig}
    elif command in ("train", "finetune"):
        if command == "train":
            from read_cache.networks import NETWORKS

            models = {kind: network.Config for kind, network in NETWORKS.items()}
        else:
            from read_cache.methods import METHODS

            models = {kind: method.Config for kind, method in METHODS.items()}
        models |= {"head": HeadSettings, "run": RunConfig, "place": Place, "search (recipes)": SearchConfig}
    else:
        raise UserError(f"command {command!r} has no settings: expected extract, train, finetune, evaluate or predict")
    rows = setting_rows(models)
    if command in ("train", "finetune"):
        from read_cache.training.network_config import NetworkConfig
        from read_cache.training.recipe import OWN

        rows += [row for row in setting_rows({"network": NetworkConfig}) if row[1] in OWN]
    if json:
        print_json([dict(zip(("owner", "name", "default", "help"), row, strict=True)) for row in rows])
    else:
        print_table(("of", "setting", "default", "effect"), rows)
