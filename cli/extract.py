"""`read-cache extract`: stage one."""

from typing import Annotated, Any

import typer

import read_cache
from read_cache.cli.output import watching
from read_cache.cli.settings import SetOption, options, parse_set, takes
from read_cache.config import ExtractConfig, ExtractPlace

ModelOption = Annotated[
    str,
    typer.Option(
        help="A model of the Hugging Face hub, a local folder, t5-tiny-wiki (bundled), or minilm-l6 or smollm2-135m "
        "(extra [models])."
    ),
]
TaskOption = Annotated[
    str,
    typer.Option(help="A GLUE task such as mrpc, a sample task such as sample-sentiment, or a TOML file of your own."),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        help="Folder of jsonl, csv or parquet files, or OWNER/NAME[/CONFIG][@REVISION] of the hub. "
        "[default: the task's own]"
    ),
]
STORE = options(ExtractConfig, "dtype", "rank", "layers", "attention", "positions", "max_examples")
STORE |= options(ExtractPlace, "device", "engine")


@takes(STORE)
def extract(
    model: ModelOption,
    task: TaskOption,
    store: Annotated[
        str | None, typer.Option(help="Folder or URL (such as s3://…) of the store. [default: stores/MODEL/TASK]")
    ] = None,
    dataset: DatasetOption = None,
    settings: SetOption = [],  # noqa: B006
    **chosen: Any,
) -> None:
    """Write a backbone's activations into a store.

    The backbone, a frozen language model, runs once over all rows of a task. A store that is not complete is continued.
    """
    chosen |= parse_set(settings, [ExtractConfig, ExtractPlace])
    with watching() as watch:
        read_cache.extract(model, task, store, dataset=dataset, watch=watch, **chosen)
