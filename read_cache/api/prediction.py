"""`read_cache.predict`, and the same for files: one pass of the backbone, then every network."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from read_cache.api.networks import Paths, as_paths
from read_cache.api.table import RecordsTable
from read_cache.config import PredictConfig
from read_cache.settings import parse
from read_cache.watch import Watch

if TYPE_CHECKING:
    from read_cache.live.predict import Line, Prediction, Predictor

Lines = Path | BinaryIO | Sequence[str]
"""A text or jsonl file, plain or .gz; an open file; or lines."""


def predict(model: str, networks: Paths, texts: Sequence[Any], **settings: Any) -> RecordsTable:
    """Return what each network predicts for each text, from one pass of the backbone.

    Args:
        model: the backbone that the networks were trained for.
        networks: folders of networks of one task, or folders of such folders.
        texts: texts, or tables of the task's fields.
        settings: fields of `read_cache.config.PredictConfig`.

    Returns:
        A table with a record for each text and network, in the order of the texts: `line` (the text's number from 1),
        `text`, `network`, `label`, `probabilities` by label, and `value` (the score of a regressor, else None).

    Raises:
        UserError: networks of another backbone or of unlike tasks, texts without a field.
    """
    from read_cache.live.predict import predict_texts

    found = predict_texts(model, as_paths(networks), texts, **settings)
    return RecordsTable([dataclasses.asdict(prediction) for of_text in found for prediction in of_text])


def predict_lines(
    model: str, networks: Paths, lines: Lines, *, watch: Watch = Watch(), **settings: Any
) -> "Iterator[Prediction]":
    """Yield what each network predicts for each line, in the order of the lines and in bounded memory.

    A line holds the texts of the task's fields, separated by tabs, or a JSON object with these fields. Raises UserError
    as `predict` does, and for a file that cannot be read.
    """
    with _reading(model, networks, lines, watch, settings) as (predictor, numbered, _):
        for of_line in predictor.predict(numbered):
            yield from of_line


def predict_file(
    model: str, networks: Paths, lines: Lines, out: Path, *, watch: Watch = Watch(), **settings: Any
) -> None:
    """Write what `predict_lines` yields to a jsonl file, one prediction a line. A file that was begun is continued.

    Raises UserError as `predict_lines` does, and if `out` holds other predictions or cannot be written.
    """
    from read_cache.live.predictions import PredictionFile, predicting_alone

    with _reading(model, networks, lines, watch, settings) as (predictor, numbered, source), predicting_alone(out):
        file = PredictionFile(out, predictor)
        remaining, before = file.remaining(numbered), file.done
        if before:
            watch.say(f"{out} holds the predictions of {before:,} lines already")
        total = Path(source.name).stat().st_size if source is not None and source.seekable() else 0
        for done in file.append(predictor.predict(remaining)):
            watch.progress("predict", source.tell() if source is not None and total else done, total)
        networks = f"{len(predictor.names)} network{'s' if len(predictor.names) > 1 else ''}"
        watch.say(f"{out} holds {file.done:,} lines by {networks}; {file.done - before:,} of these lines are new")


@contextlib.contextmanager
def _reading(
    model: str, networks: Paths, lines: Lines, watch: Watch, settings: dict[str, Any]
) -> "Iterator[tuple[Predictor, Iterator[Line], BinaryIO | None]]":
    """Give the networks beside their backbone, the numbered lines, and the file that they are read from."""
    from read_cache.live.predict import Predictor, open_lines, read_lines
    from read_cache.networks.saved import find_networks

    config = parse(PredictConfig, settings, "settings")
    predictor = Predictor(model, find_networks(as_paths(networks)), config)
    with contextlib.ExitStack() as stack:
        if isinstance(lines, Path):
            source, numbered = stack.enter_context(open_lines(lines))
            yield predictor, numbered, source
        elif isinstance(lines, Sequence):
            yield predictor, enumerate(lines, start=1), None
        else:
            yield predictor, read_lines(lines, "standard input"), None
    if predictor.cut:
        watch.say(f"{predictor.cut:,} texts are longer than {predictor.max_source_length} tokens and were cut")
