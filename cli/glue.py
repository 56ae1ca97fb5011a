"""`read-cache glue`: extract and train several tasks, then write the paper's tables of all of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from read_cache.cli.output import watching
from read_cache.cli.report import show_table
from read_cache.cli.settings import SetOption, TrainSetOption, parse_set
from read_cache.config import ExtractConfig, ExtractPlace
from read_cache.errors import UserError
from read_cache.tasks import SAMPLE_TASKS

GLUE_TASKS = ("cola", "mnli", "qnli", "mrpc", "qqp", "sst2", "stsb")


def glue(
    model: Annotated[str, typer.Option(help="The backbone.")] = "t5-base",
    task: Annotated[
        list[str],
        typer.Option(
            metavar="<str>", help="Task; may be repeated. [default: the paper's seven, or those in --dataset]"
        ),
    ] = [],  # noqa: B006
    dataset: Annotated[
        Path | None, typer.Option(help="Folder with a folder of rows for each task. [default: the hub's rows]")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe of each task's networks.")] = "paper",
    stores: Annotated[Path | None, typer.Option(help="Folder of the stores. [default: stores/MODEL]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs. [default: runs/MODEL]")] = None,
    untied: Annotated[
        str | None, typer.Option(help="Recipe of networks without recurrence, for Table 2. [default: no Table 2]")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device of both stages.")] = "cpu",
    settings: SetOption = [],  # noqa: B006
    train_settings: TrainSetOption = [],  # noqa: B006
) -> None:
    """Run both stages on the paper's tasks.

    The paper's tables of all tasks follow. Finished work is skipped. --set takes settings of extraction, --train-set
    those of training.
    """
    from read_cache.api import extract, train

    name = Path(model).name
    stores, out = stores or Path("stores", name), out or Path("runs", name)
    extract_settings = {"device": device} | parse_set(settings, [ExtractConfig, ExtractPlace])
    recipes = {out: recipe} | ({out / "untied": untied} if untied else {})
    for one in task or tasks_in(dataset, model):
        with watching() as watch:
            rows = None if dataset is None else dataset / one
            store = extract(model, one, stores / one, dataset=rows, watch=watch, **extract_settings)
            for run, own in recipes.items():
                train(store, run / one, recipe=own, device=device, texts=train_settings, watch=watch)
    show_table("table1", runs_in([out]), out)
    if untied:
        show_table("table2", runs_in(recipes), out)


def runs_in(folders: Iterable[Path]) -> list[Path]:
    """Return the run folders below some folders that have results."""
    return [path.parent for folder in folders for path in sorted(folder.glob("*/results.jsonl"))]


def tasks_in(dataset: Path | None, model: str) -> tuple[str, ...]:
    """Return the default tasks: those with a folder in `dataset`. Raises UserError if it has none."""
    if dataset is None:
        return SAMPLE_TASKS if model == "t5-tiny-wiki" else GLUE_TASKS
    found = tuple(name for name in GLUE_TASKS if (dataset / name).is_dir())
    if not found:
        raise UserError(f"{dataset} holds no folder of a task: expected some of {', '.join(GLUE_TASKS)}")
    return found
