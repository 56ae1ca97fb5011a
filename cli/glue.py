"""`read-cache glue`: extract and train several tasks, then write the paper's tables of all of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from read_cache.cli.output import say, watching
from read_cache.cli.settings import SetOption, TrainSetOption, parse_set
from read_cache.config import ExtractConfig, ExtractPlace
from read_cache.errors import UserError
from read_cache.tasks import SAMPLE_TASKS

if TYPE_CHECKING:
    from read_cache.report.tables import TableName

GLUE_TASKS = ("cola", "mnli", "qnli", "mrpc", "qqp", "sst2", "stsb")
FILE = "results.jsonl"


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
        str | None, typer.Option(help="Recipe of networks without recurrency, for Table 2. [default: no Table 2]")
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device of both stages.")] = "cpu",
    settings: SetOption = [],  # noqa: B006
    train_settings: TrainSetOption = [],  # noqa: B006
) -> None:
    """Run both stages on the paper's tasks.

    Then write the paper's tables of all of them. Finished work is skipped. `--set` takes settings of extraction.
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
    write_table("table1", [out], out)
    if untied:
        write_table("table2", [out, out / "untied"], out)


def write_table(name: "TableName", folders: list[Path], out: Path) -> None:
    """Write a table of all runs in some folders, and print it. Of several stores of a task the last one counts."""
    from read_cache.report.frames import read_runs
    from read_cache.report.tables import PaperTable

    results = read_runs([path.parent for folder in folders for path in sorted(folder.glob(f"*/{FILE}"))])
    last = {result.task: result.identity for result in results}
    counted = [result for result in results if result.identity == last[result.task]]
    if earlier := len(results) - len(counted):
        say(f"{name} leaves out {earlier} results on earlier stores of the same tasks")
    print(PaperTable(name, counted).write(out), end="")
    say(f"the table is in {out / name}.md and .csv")


def tasks_in(dataset: Path | None, model: str) -> tuple[str, ...]:
    """Return the tasks whose rows are at hand. Raises UserError if a folder holds none."""
    if dataset is None:
        return SAMPLE_TASKS if model == "t5-tiny-wiki" else GLUE_TASKS
    found = tuple(name for name in GLUE_TASKS if (dataset / name).is_dir())
    if not found:
        raise UserError(f"{dataset} holds no folder of a task: expected some of {', '.join(GLUE_TASKS)}")
    return found
