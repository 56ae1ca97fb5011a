"""`read-cache compare`: side networks and live methods in one table."""

from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

import read_cache
from read_cache.cli.extract import DatasetOption
from read_cache.cli.output import print_json, print_table, say, watching
from read_cache.cli.settings import SetOption, options, parse_set, takes
from read_cache.cli.train import RATES, RUN, JsonOption, LogOption
from read_cache.config import ExtractConfig, ExtractPlace, Place
from read_cache.errors import UserError
from read_cache.tasks import find_task

EXTRACT = "extract."
"""Prefix of the settings of extraction."""


@takes(RATES | RUN | options(Place, "device", "engine"))
def compare(
    method: Annotated[
        list[str],
        typer.Option(
            metavar="<str>",
            help="A side network or live method, such as read or lora; may be repeated. [default: those of --recipe]",
        ),
    ] = [],  # noqa: B006
    model: Annotated[str | None, typer.Option(help="The backbone, as extract takes it.")] = None,
    task: Annotated[
        list[str], typer.Option(metavar="<str>", help="A task, as extract takes it; may be repeated.")
    ] = [],  # noqa: B006
    dataset: DatasetOption = None,
    store: Annotated[str | None, typer.Option(help="A sealed store, in place of --model and --task.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the comparison; with --task, a folder for each task is made in it. "
            "[default: comparisons/A for the store stores/A]"
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A TOML file, or a bundled recipe, such as real or paper. Options replace its settings."),
    ] = None,
    log: LogOption = [],  # noqa: B006
    settings: SetOption = [],  # noqa: B006
    json: JsonOption = False,
    **chosen: Any,
) -> None:
    """Compare side networks and live methods.

    For each task: extract the store, train each method on its rows, measure its costs, and print a table. With
    several tasks, a last table has all of them, and --dataset may be a folder with one subfolder of rows for each
    task. Finished work is skipped. --set takes NAME=VALUE for all methods, METHOD.NAME=VALUE for one method
    (read.lr=0.001,0.003), and extract.NAME=VALUE for the extraction. If a setting has several values,
    the best on validation is chosen.
    """
    from read_cache.api.training import default_out
    from read_cache.comparison import compare as run_compare
    from read_cache.comparison.run import read_comparison
    from read_cache.comparison.table import overview, write_overview

    own = [text for text in settings if not text.startswith(EXTRACT)]
    extracting = [text.removeprefix(EXTRACT) for text in settings if text.startswith(EXTRACT)]
    place = {name: value for name, value in chosen.items() if name in ("device", "engine")}
    place |= parse_set(extracting, [ExtractConfig, ExtractPlace])
    chosen |= {"method": method} if method else {}
    if (model is None or not task) if store is None else (model or task or dataset or extracting):
        raise UserError("give either --model and --task, or a sealed --store without --dataset and settings of extract")
    if not method and recipe is None:
        raise UserError("there is no method to compare: give --method, or a --recipe that names some")
    read, _ = read_comparison(recipe, own, chosen)  # before the first extraction
    names = [find_task(one).name for one in task]
    read.check_tasks(names or read.tasks)
    for name in names:
        read.sweep(name, apart=True)
    tables = []
    for one, name in zip(task or [""], names or [""], strict=True):
        path = store
        with watching() as watch:
            if path is None:
                assert model is not None
                below = None if dataset is None else Path(dataset, name)
                rows = str(below) if below is not None and below.is_dir() else dataset
                path = read_cache.extract(model, one, dataset=rows, watch=watch, **place).folder.path
            folder = default_out(path, "comparisons") if out is None else out / name if task else out
            table = run_compare(path, folder, recipe=recipe, callbacks=log, watch=watch, texts=own, **chosen)
        tables.append(table)
        if not json:
            print_table(list(table_row({})), [list(table_row(row).values()) for row in table], table.title)
            say(f"{folder} holds compare.md, .csv and .json, which have every column, the networks and results.jsonl")
    if json:
        found = [table.facts | {"methods": list(table)} for table in tables]
        print_json(found if len(task) > 1 else found[0])
    if len(tables) > 1:
        frame = overview(tables)
        if not json:
            print_table(list(frame.columns), frame.values.tolist())
        say(f"{write_overview(frame, folder.parent)} has the last table")


def table_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells that fit a terminal, by title. An empty record gives the titles."""
    from read_cache.report.costs import digits
    from read_cache.report.frames import spread

    split = "validation" if record.get("test") is None else "test"
    kept, flops = record.get("kept_bytes"), record.get("flops")
    seconds = {"s/step": "seconds_per_step", "s to best": "time_to_best", "s total": "total_time"}
    seconds["of 96"] = "total_time_96_networks"
    return {
        "method": record.get("method"),
        "metric": spread(record.get(split, nan), record.get(f"{split}_deviation") or nan),
        "parameters": record.get("num_trainable_params"),
        "%": record.get("trainable_percent"),
        "kept": None if kept is None else decimal(kept),
        "GFLOP": None if flops is None else digits(flops / 1e9),
        **{title: digits(record.get(name) or nan) for title, name in seconds.items()},
    }
