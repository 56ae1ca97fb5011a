"""Lines of text to predictions, in order and in bounded memory: one backbone pass, then every network of a task."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from read_cache.backbones import Source, open_backbone
from read_cache.config import PredictConfig
from read_cache.errors import UserError
from read_cache.live.attached import Attached
from read_cache.live.classified import Classified
from read_cache.live.inputs import Row, row_texts
from read_cache.live.lines import Line, parse_line
from read_cache.networks.record import NetworkRecord
from read_cache.networks.saved import find_networks, load_network, told_apart
from read_cache.settings import parse


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction of one network for one text."""

    line: int
    """Its number in the input, from 1."""
    text: str
    """What the backbone read; tabs separate the texts of a pair."""
    network: str
    label: str
    """The predicted label; for an open target, the generated text."""
    probabilities: dict[str, float]
    """By label; they sum to one. Empty for a regressor and for generated text."""
    value: float | None = None
    """The predicted score; None for classes and text."""


class Predictor:
    """A backbone and networks for one task, whose target may be open: then text is generated, greedily."""

    def __init__(self, model: str, folders: Sequence[Path], config: PredictConfig | None = None) -> None:
        """Open the backbone and the networks in `folders`.

        Raises UserError for networks of another backbone or of unlike tasks.
        """
        self.config = config = config or PredictConfig()
        loaded = [load_network(folder) for folder in folders]
        if not loaded:
            raise UserError("there is no network to predict with: give at least one folder")
        records = [one.record for one in loaded]
        first = records[0]
        for record in records:
            if inputs_of(record) != inputs_of(first):
                raise UserError(
                    f"networks {first.name} ({first.task.name}) and {record.name} ({record.task.name}) read different "
                    "inputs, so no pass can be shared: predict with the networks of one task at a time"
                )
        names = told_apart([record.name for record in records], folders)
        self.task, self.window = first.task, config.batch_size * config.look_ahead
        backbone = open_backbone(model, first.compute_dtype, config.device, config.revision)
        self.attached = Attached(backbone, dict(zip(names, loaded, strict=True)))
        self.names = tuple(self.attached.networks)
        self.max_source_length = first.max_source_length
        self.cut = 0
        """Texts of this run that were longer than `max_source_length` tokens."""

    def texts(self, line: Line) -> tuple[str, ...]:
        """Return the texts that the backbone reads of a line. Raises UserError, which names the line."""
        number, content = line
        return row_texts(self.attached.backbone, self.task, parse_line(content, self.task, number), f"line {number}")

    def predict(self, lines: Iterable[Line]) -> Iterator[list[Prediction]]:
        """Yield the predictions of each line by every network, in the order of the lines.

        Memory holds one window of lines.
        """
        remaining = iter(lines)
        while window := list(islice(remaining, self.window)):
            yield from self.predict_texts([number for number, _ in window], [self.texts(line) for line in window])

    def predict_texts(self, numbers: Sequence[int], texts: Sequence[tuple[str, ...]]) -> Iterator[list[Prediction]]:
        """Yield the predictions of each row by every network; rows of like length share a pass."""
        sources = self.attached.tokenize(texts, self.names[0])
        self.cut += sum(source.cut for source in sources)
        for number, row, by_network in zip(numbers, texts, self._classify(sources), strict=True):
            yield [
                Prediction(number, "\t".join(row), name, one.label, one.probabilities, one.value)
                for name, one in by_network.items()
            ]

    def _classify(self, sources: Sequence[Source]) -> list[dict[str, Classified]]:
        size, limit = self.config.batch_size, self.config.max_new_tokens
        if self.task.labels:
            return self.attached.classify_sources(sources, self.names, size)
        return self.attached.generate_sources(
            sources, self.names, size, max_new_tokens=limit, num_beams=1, do_sample=False
        )


def predict_texts(
    model: str, networks: Sequence[Path], texts: Sequence[Row], **settings: Any
) -> list[list[Prediction]]:
    """Return the predictions of each text, or table of the task's fields, by every network.

    `networks` are folders, or folders of folders; `settings` are fields of `PredictConfig`. Raises UserError.
    """
    if isinstance(texts, str | Mapping):
        raise UserError("predict takes a list of texts, found one: put brackets around it")
    predictor = Predictor(model, find_networks(networks), parse(PredictConfig, settings, "settings"))
    backbone, numbers = predictor.attached.backbone, range(1, len(texts) + 1)
    rows = [
        row_texts(backbone, predictor.task, row, f"text {number}") for number, row in zip(numbers, texts, strict=True)
    ]
    return [
        predictions
        for start in range(0, len(rows), predictor.window)
        for predictions in predictor.predict_texts(
            numbers[start : start + predictor.window], rows[start : start + predictor.window]
        )
    ]


def inputs_of(record: NetworkRecord) -> tuple[object, ...]:
    """Return what networks must have in common to read the same lines."""
    return record.task, record.label_ids, record.max_source_length
