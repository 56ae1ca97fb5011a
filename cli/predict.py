"""`read-cache predict`: text in, labels out, one backbone pass for all networks."""

import dataclasses
import json as json_module
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from read_cache.cli.output import stdout
from read_cache.errors import UserError


def predict(
    network: Annotated[list[Path], typer.Option(help="A network's folder, or a folder of them; may be repeated.")],
    model: Annotated[str, typer.Option(help="The backbone the networks were trained for.")],
    text: Annotated[
        list[str] | None, typer.Argument(help="Texts; fields of a pair with a tab between. Else --file, or stdin.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A text or jsonl file, one example a line.")] = None,
    batch_size: Annotated[int, typer.Option(help="Texts in one backbone pass.", min=1)] = 32,
    device: Annotated[str, typer.Option(help="Where everything runs.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a text and network.")] = False,
) -> None:
    """Labels with probabilities: one backbone pass, then every network."""
    from read_cache.networks.folder import find_networks
    from read_cache.predict import Predictor

    if text and file:
        raise UserError("give texts as arguments or with --file, not both")
    predictor = Predictor(model, find_networks(network), device)
    for prediction in predictor.predict(text or _lines(file), batch_size):
        if json:
            print(json_module.dumps(dataclasses.asdict(prediction), ensure_ascii=False), flush=True)
        else:
            likely = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:3]
            shares = ", ".join(f"{label} {share:.3f}" for label, share in likely)
            stdout.print(f"{prediction.network}\t{prediction.label}\t({shares})\t{prediction.text}", markup=False,
                         soft_wrap=True)  # fmt: skip


def _lines(file: Path | None) -> Iterator[str]:
    """Non-empty lines of a file or of stdin, one at a time."""
    try:
        with file.open(encoding="utf-8") if file else sys.stdin as source:
            for line in source:
                if line.strip():
                    yield line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file or 'stdin'} cannot be read: {error}") from error
