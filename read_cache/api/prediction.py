"""`read_cache.predict`, and the same for files and streams."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from read_cache.api.networks import Paths, as_paths
from read_cache.api.table import RecordsTable
from read_cache.config import PredictConfig
from read_cache.errors import UserError
from read_cache.live.predict import Lines, Prediction, Predictor, open_lines
from read_cache.networks.saved import find_networks
from read_cache.settings import parse
from read_cache.watch import Watch


def predict(model: str, networks: Paths, texts: Sequence[Any], **settings: Any) -> RecordsTable:
    """Return each network's prediction for each text.

    One pass of the backbone serves all side networks; each live method takes a pass of its own.

    Args:
        model: the backbone that the networks were trained for.
        networks: folders of side networks or live methods of one task, folders of such folders, or names on the hub.
        texts: texts, with tabs between those of several fields, or tables of the task's fields.
        settings: fields of `read_cache.config.PredictConfig`.

    Returns:
        A table with a record for each text and network, in the order of the texts: `line` (the text's number from 1),
        `text`, `network`, `label`, `probabilities` by label, and `value` (the score of a regressor, else None).

    Raises:
        UserError: networks of another backbone or of different tasks, texts that lack a field.
    """
    if isinstance(texts, str | Mapping):
        raise UserError("predict takes a list of texts, found one: put brackets around it")
    predictor = open_predictor(model, networks, settings)
    found = predictor.predict(enumerate(texts, start=1))
    return RecordsTable([dataclasses.asdict(prediction) for of_text in found for prediction in of_text])


def predict_lines(
    model: str, networks: Paths, lines: Lines, *, watch: Watch = Watch(), **settings: Any
) -> Iterator[Prediction]:
    """Yield each network's prediction for each line, in the order of the lines and in bounded memory.

    A line holds the texts of the task's fields, separated by tabs, or a JSON object with these fields. Raises UserError
    as `predict` does, and for a file that cannot be read.
    """
    predictor = open_predictor(model, networks, settings)
    with open_lines(lines) as numbered:
        for of_line in predictor.predict(numbered):
            yield from of_line
    if predictor.cut:
        watch.say(f"{predictor.cut:,} texts are longer than {predictor.max_source_length} tokens and were cut")


def open_predictor(model: str, networks: Paths, settings: dict[str, Any]) -> Predictor:
    """Return networks beside their backbone. Raises UserError."""
    return Predictor(model, find_networks(as_paths(networks), live=True), parse(PredictConfig, settings, "settings"))
