"""`read-cache extract`: stage one."""

from typing import Annotated

import typer

from read_cache.api.extraction import extract as run_extract
from read_cache.cli.output import watching
from read_cache.cli.settings import SetOption, given, option, parse_set
from read_cache.config import ExtractConfig, ExtractPlace
from read_cache.store.schema import Attention, Dtype, Positions

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
EngineOption = Annotated[str | None, option(ExtractPlace, "engine")]


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
    engine: EngineOption = None,
    settings: SetOption = [],  # noqa: B006
) -> None:
    """Write a backbone's activations into a store.

    The frozen backbone runs once over all rows of a task. A store that is not complete is continued.
    """
    chosen = parse_set(settings, [ExtractConfig, ExtractPlace]) | given(
        dtype=dtype,
        rank=rank,
        layers=layers,
        attention=attention,
        positions=positions,
        max_examples=max_examples,
        device=device,
        engine=engine,
    )
    with watching() as watch:
        run_extract(model, task, store, dataset=dataset, watch=watch, **chosen)
