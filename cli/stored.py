"""What the user decides of a store, as options that `extract` and `plan` share."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from read_cache.extract.config import ExtractConfig
from read_cache.store.schema import Attention, AttentionDtype, ComputeDtype, Dtype

DtypeOption = Annotated[Dtype, typer.Option(help="Stored encoder states.")]
ComputeDtypeOption = Annotated[
    ComputeDtype | None, typer.Option(help="What the backbone runs in.", show_default="fp32 for fp32, else bf16")
]
AttentionOption = Annotated[Attention, typer.Option(help="Attention weights kept.")]
AttentionDtypeOption = Annotated[
    AttentionDtype | None, typer.Option(help="Stored attention weights.", show_default="fp32 for fp32, else fp16")
]
RankOption = Annotated[
    int, typer.Option(help="Keep encoder states' projections on this many principal directions; 0: whole.")
]
LayersOption = Annotated[str, typer.Option(help="Layers kept, such as 2,4,6-12.")]
MaxExamplesOption = Annotated[
    int | None, typer.Option(help="At most this many examples of each split.", show_default="all")
]
MaxSourceLengthOption = Annotated[int, typer.Option(help="Encoder tokens, eos included.")]
PartTokensOption = Annotated[int, typer.Option(help="Tokens in one part (chunk).")]
BatchTokensOption = Annotated[int, typer.Option(help="Padded tokens in one forward batch.")]
RevisionOption = Annotated[str | None, typer.Option(help="Revision of a hub model.", show_default="main")]


def given_config(context: typer.Context) -> ExtractConfig:
    """The options of a command that decide of a store. Raises UserError."""
    known = {field.name for field in dataclasses.fields(ExtractConfig)}
    return ExtractConfig(**{name: value for name, value in context.params.items() if name in known})


def default_store(model: str, task_name: str) -> str:
    """Where a store goes that is given no place."""
    return f"stores/{Path(model).name or 'model'}/{task_name}"
