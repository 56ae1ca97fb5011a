"""`read-cache predict`: text in, predictions out, one backbone pass for all networks."""

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
from read_cache.cli.settings import SetOption, given, option, parse_set
from read_cache.config import PredictConfig
from read_cache.errors import UserError

if TYPE_CHECKING:
    from read_cache.live.predict import Line, Prediction, Predictor

SECONDS_BETWEEN_REPORTS = 30


def predict(
    network: Annotated[list[Path], typer.Option(help="A network's folder, or a folder of them; may be repeated.")],
    model: Annotated[str, typer.Option(help="The backbone the networks were trained for.")],
    text: Annotated[
        list[str] | None,
        typer.Argument(help="Texts; a tab separates the fields of a pair. By default --file, or standard input."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A text or jsonl file, one example a line; also as .gz.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A jsonl file to write. If it exists, the same command resumes.")
    ] = None,
    batch_size: Annotated[int | None, option(PredictConfig, "batch_size")] = None,
    device: Annotated[str | None, option(PredictConfig, "device")] = None,
    settings: SetOption = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each text and network.")] = False,
) -> None:
    """Predict labels, scores or text: one backbone pass, then every network. A file may be of any size."""
    from read_cache.live.predict import Predictor, open_lines, read_lines
    from read_cache.live.predictions import predicting_alone
    from read_cache.networks.saved import find_networks

    if text and file:
        raise UserError("give texts as arguments or with --file, not both")
    chosen = parse_set(settings, [PredictConfig]) | given(batch_size=batch_size, device=device)
    if not (file or out):  # a person or a program may wait for each answer on standard input
        chosen.setdefault("look_ahead", 1)
    predictor = Predictor(model, find_networks(network), PredictConfig(**chosen))
    with contextlib.ExitStack() as stack:
        source: BinaryIO | None = None
        if text:
            lines: Iterator[Line] = enumerate(text, start=1)
        elif file:
            source, lines = stack.enter_context(open_lines(file))
        else:
            lines = read_lines(sys.stdin.buffer, "stdin")
        if out is not None:
            stack.enter_context(predicting_alone(out))
            _write(predictor, lines, out, source if source and source.seekable() else None)
        else:
            for of_line in predictor.predict(lines):
                for prediction in of_line:
                    _print(prediction, json)
    if predictor.cut:
        say(f"{predictor.cut:,} of this run's texts are longer than {predictor.max_source_length} tokens and were cut")


def _print(prediction: "Prediction", json: bool) -> None:
    if json:
        print(json_module.dumps(dataclasses.asdict(prediction), ensure_ascii=False), flush=True)
        return
    likely = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:3]
    details = ", ".join(f"{label} {share:.3f}" for label, share in likely)
    if not likely and prediction.value is not None:
        details = f"{prediction.value:.3f}"
    columns = [prediction.network, prediction.label, f"({details})" if details else "", prediction.text]
    print("\t".join(columns), flush=True)


def _write(predictor: "Predictor", lines: "Iterator[Line]", out: Path, source: BinaryIO | None) -> None:
    """Write predictions to a file; stderr shows the share of the source that has been read."""
    from read_cache.live.predictions import PredictionFile

    file = PredictionFile(out, predictor)
    remaining = file.remaining(lines)
    if before := file.done:
        say(f"{out} holds the predictions of {before:,} lines already")
    reported = time.monotonic()
    with progress_bar() as bar:
        row = bar.add_task("predict", total=Path(source.name).stat().st_size if source else None)
        for done in file.append(predictor.predict(remaining)):
            bar.update(row, completed=source.tell() if source else done, description=f"predict {done:,}")
            if not stderr.is_terminal and time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
                reported, left = time.monotonic(), bar.tasks[row].time_remaining
                say(f"{done:,} lines" + (f", {left:.0f} s left" if left is not None else ""))
    networks = f"{len(predictor.names)} network{'s' if len(predictor.names) > 1 else ''}"
    say(f"{file.done:,} lines by {networks} are in {out}, {file.done - before:,} of them new")
