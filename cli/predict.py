"""`read-cache predict`: text in, labels out, one backbone pass for all networks."""

import contextlib
import dataclasses
import json as json_module
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from read_cache.cli.output import progress_bar, say, stderr
from read_cache.errors import UserError

if TYPE_CHECKING:
    from read_cache.live.predict import Line, Prediction, Predictor

SECONDS_BETWEEN_REPORTS = 30


def predict(
    network: Annotated[list[Path], typer.Option(help="A network's folder, or a folder of them; may be repeated.")],
    model: Annotated[str, typer.Option(help="The backbone the networks were trained for.")],
    text: Annotated[
        list[str] | None, typer.Argument(help="Texts; fields of a pair with a tab between. Else --file, or stdin.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A text or jsonl file, one example a line.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A jsonl file to write as it goes. If it exists, the same call goes on there.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.", show_default="main")] = None,
    batch_size: Annotated[int, typer.Option(help="Texts in one backbone pass.", min=1)] = 32,
    device: Annotated[str, typer.Option(help="Where everything runs.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a text and network.")] = False,
) -> None:
    """Labels with probabilities: one backbone pass, then every network. A file may be of any size."""
    from read_cache.live.predict import LOOK_AHEAD, Predictor
    from read_cache.live.predictions import predicting_alone
    from read_cache.networks.saved import find_networks

    if text and file:
        raise UserError("give texts as arguments or with --file, not both")
    # stdin may be a person or a program that waits for an answer before it goes on
    look_ahead = LOOK_AHEAD if file or out else 1
    predictor = Predictor(model, find_networks(network), device, batch_size, look_ahead, revision)
    with _open(file) as source:
        lines = enumerate(text, start=1) if text else _lines(source, file)
        if out is not None:
            with predicting_alone(out):
                _write(predictor, lines, out, source if file and source.seekable() else None)
        else:
            for of_line in predictor.predict(lines):
                for prediction in of_line:
                    _print(prediction, json)
    if cut := predictor.encoder.cut:
        say(f"{cut:,} of this run's texts are longer than {predictor.encoder.max_source_length} tokens and were cut")


def _print(prediction: "Prediction", json: bool) -> None:
    if json:
        print(json_module.dumps(dataclasses.asdict(prediction), ensure_ascii=False), flush=True)
        return
    likely = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{label} {share:.3f}" for label, share in likely)
    print(f"{prediction.network}\t{prediction.label}\t({shares})\t{prediction.text}", flush=True)


def _write(predictor: "Predictor", lines: "Iterator[Line]", out: Path, source: BinaryIO | None) -> None:
    """Predictions to a file, with progress on stderr by the share of the source that has been read."""
    from read_cache.live.predictions import PredictionFile

    file = PredictionFile(out, predictor)
    remaining = file.remaining(lines)
    if before := file.done:
        say(f"{out} holds the predictions of {before:,} lines already")
    told = time.monotonic()
    with progress_bar() as bar:
        row = bar.add_task("predict", total=Path(source.name).stat().st_size if source else None)
        for done in file.append(predictor.predict(remaining)):
            bar.update(row, completed=source.tell() if source else done, description=f"predict {done:,}")
            if not stderr.is_terminal and time.monotonic() - told > SECONDS_BETWEEN_REPORTS:
                told, left = time.monotonic(), bar.tasks[row].time_remaining
                say(f"{done:,} lines" + (f", {left:.0f} s left" if left is not None else ""))
    networks = f"{len(predictor.names)} network{'s' if len(predictor.names) > 1 else ''}"
    say(f"{file.done:,} lines by {networks} are in {out}, {file.done - before:,} of them new")


def _open(file: Path | None) -> contextlib.AbstractContextManager[BinaryIO]:
    try:
        return file.open("rb") if file else contextlib.nullcontext(sys.stdin.buffer)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def _lines(source: BinaryIO, file: Path | None) -> "Iterator[Line]":
    """The lines that are not empty, with their numbers, one at a time."""
    number = 0
    try:
        for number, raw in enumerate(source, start=1):
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            if line.strip():
                yield number, line
    except (OSError, UnicodeDecodeError) as error:
        where = f"{file or 'stdin'}, line {number + isinstance(error, OSError)},"
        raise UserError(f"{where} cannot be read: {error}") from error
