"""`read-cache extract`: stage one."""

import os
from pathlib import Path
from typing import Annotated

import typer

from read_cache.api.extraction import ExtractWatch
from read_cache.api.extraction import extract as run_extract
from read_cache.cli.output import print_json, progress_bar, say
from read_cache.cli.settings import SetOption, given, option, parse_set
from read_cache.config import ExtractConfig, ExtractPlace
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.store.schema import Attention, Dtype, Positions

KEPT_KERNELS = "64"
"""Kernels that oneDNN keeps, instead of 1,024, unless the user has set a number.

Batches of extraction seldom have the shape of an earlier one, so old kernels only fill memory: over 223 parts of 2,048
tokens a process of 0.6 GB grew to 1.1 GB, and to 0.9 GB with this. Training meets its shapes again in every epoch.
"""
ModelOption = Annotated[
    str,
    typer.Option(
        help="A hub model, a local folder, t5-tiny-wiki (bundled), or minilm-l6 or smollm2-135m (extra [models])."
    ),
]
TaskOption = Annotated[str, typer.Option(help="A GLUE task, a sample task, or a TOML file that describes one.")]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        help="Folder of jsonl, csv or parquet files, or OWNER/NAME[/CONFIG][@REVISION] of the hub. "
        "[default: the task's own]"
    ),
]

DtypeOption = Annotated[Dtype | None, option(ExtractConfig, "dtype")]
RankOption = Annotated[int | None, option(ExtractConfig, "rank")]
LayersOption = Annotated[str | None, option(ExtractConfig, "layers")]
AttentionOption = Annotated[Attention | None, option(ExtractConfig, "attention")]
PositionsOption = Annotated[Positions | None, option(ExtractConfig, "positions")]
MaxExamplesOption = Annotated[int | None, option(ExtractConfig, "max_examples")]
DeviceOption = Annotated[str | None, option(ExtractPlace, "device")]


def extract(
    model: ModelOption,
    task: TaskOption,
    store: Annotated[
        str | None,
        typer.Option(help="Folder or URL (such as s3://…) of the store. [default: stores/MODEL/TASK]"),
    ] = None,
    dataset: DatasetOption = None,
    dtype: DtypeOption = None,
    rank: RankOption = None,
    layers: LayersOption = None,
    attention: AttentionOption = None,
    positions: PositionsOption = None,
    max_examples: MaxExamplesOption = None,
    device: DeviceOption = None,
    settings: SetOption = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a backbone's activations into a store.

    The frozen backbone runs once over all rows of a task. A store that is not complete is continued.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KEPT_KERNELS)
    chosen = parse_set(settings, [ExtractConfig, ExtractPlace]) | given(
        dtype=dtype,
        rank=rank,
        layers=layers,
        attention=attention,
        positions=positions,
        max_examples=max_examples,
        device=device,
    )
    reader = watched_extract(model, task, store, dataset, **chosen)
    if json:
        print_json({"store": reader.folder.path, "manifest": f"{reader.folder.path}/{StoreFolder.MANIFEST}"})


def watched_extract(
    model: str, task: str, store: str | Path | None, dataset: str | None, **settings: object
) -> StoreReader:
    """Extract with a progress bar on stderr."""
    bar = progress_bar()
    row = bar.add_task("extract", total=None, visible=False)

    def begin(name: str, tokens: int) -> None:
        bar.start()
        bar.reset(row, total=tokens, description=name, visible=True)

    watch = ExtractWatch(say, begin, lambda tokens: bar.advance(row, tokens))
    try:
        return run_extract(model, task, store, dataset=dataset, watch=watch, **settings)
    finally:
        if bar.live.is_started:  # a bar that never started would print an empty line
            bar.stop()
