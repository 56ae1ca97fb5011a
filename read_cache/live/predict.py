"""Lines of text in, labels out, in order and in bounded memory: one backbone pass, then every network of a task."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from read_cache.backbones.t5 import Backbone
from read_cache.device import check_device
from read_cache.errors import UserError
from read_cache.live.attached import BATCH_SIZE, Attached
from read_cache.networks.record import NetworkRecord
from read_cache.networks.saved import load_network, told_apart
from read_cache.tasks import Task

Line = tuple[int, str]
"""(number from 1, what it says); `parse_line` says what a line may be."""
LOOK_AHEAD = 16
"""Batches' worth of lines that are read together, so that texts of like length share a batch."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What one network says of one text."""

    line: int
    """Its number in the input, from 1."""
    text: str
    network: str
    label: str
    probabilities: dict[str, float]
    """By label; they sum to one."""


class Predictor:
    """A backbone and networks for one task. Raises UserError for networks of another backbone or unlike tasks."""

    def __init__(
        self,
        model: str,
        folders: list[Path],
        device: str = "cpu",
        batch_size: int = BATCH_SIZE,
        look_ahead: int = LOOK_AHEAD,
        revision: str | None = None,
    ) -> None:
        check_device(device)
        loaded = [load_network(folder) for folder in folders]
        records = [one.record for one in loaded]
        first = records[0]
        for record in records:
            if inputs_of(record) != inputs_of(first):
                raise UserError(
                    f"networks {first.name} ({first.task.name}) and {record.name} ({record.task.name}) read different "
                    "inputs, so no pass can be shared: predict with the networks of one task at a time"
                )
        if not first.task.labels:
            raise UserError(f"task {first.task.name} has open targets; predict needs a closed label set")
        names = told_apart([record.name for record in records], folders)
        self.batch_size, self.window = batch_size, batch_size * look_ahead
        self.task = first.task
        backbone = Backbone(model, first.compute_dtype, device, revision)
        self.attached = Attached(backbone, dict(zip(names, loaded, strict=True)))
        self.names = tuple(self.attached.networks)
        self.encoder = self.attached.encoder(self.names[0])

    def text(self, line: Line) -> str:
        """What the backbone reads of a line. Raises UserError, which names the line."""
        number, row = line
        return self.encoder.source_text(parse_line(row, self.task, number), f"line {number}")

    def predict(self, lines: Iterable[Line]) -> Iterator[list[Prediction]]:
        """Predictions of each line by every network, in the order of the lines; memory holds one window of them."""
        remaining = iter(lines)
        while window := list(islice(remaining, self.window)):
            texts = [self.text(line) for line in window]
            classified = self.attached.classify_texts(texts, self.names, self.batch_size)
            for (number, _), text, said in zip(window, texts, classified, strict=True):
                yield [Prediction(number, text, name, one.label, one.probabilities) for name, one in said.items()]


def inputs_of(record: NetworkRecord) -> tuple[object, ...]:
    """What networks must have in common to read the same lines."""
    return record.task, record.label_ids, record.max_source_length


def parse_line(line: str, task: Task, number: int) -> dict[str, Any]:
    """A row of the task: a JSON object with its fields, or its fields' texts with tabs between them."""
    fields, line = task.text_fields, line.rstrip("\r\n")
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"line {number} begins like a JSON object but is none: {error}") from error
        if missing := [field for field in fields if field not in row]:
            raise UserError(f"line {number} has no {missing[0]!r}; task {task.name} needs {', '.join(fields)}")
        return row
    values = line.split("\t")
    if len(values) != len(fields):
        raise UserError(
            f"line {number} has {len(values)} texts, task {task.name} needs {len(fields)} ({', '.join(fields)}): "
            "put a tab between them, or give a JSON object"
        )
    return dict(zip(fields, values, strict=True))
