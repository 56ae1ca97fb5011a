"""Lines of text to predictions, in order and in bounded memory: one backbone pass, then every network of a task."""

import contextlib
import dataclasses
import gzip
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from read_cache.backbones import Backbone, TokenBatch, open_backbone
from read_cache.config import PredictConfig
from read_cache.errors import UserError
from read_cache.live.attached import Attached
from read_cache.live.formats import targets
from read_cache.live.heads import Classified
from read_cache.live.inputs import Row, row_texts, source_tokens
from read_cache.loader.batch import Positions
from read_cache.methods.base import LiveBatch
from read_cache.methods.saved import load_method, load_record
from read_cache.networks.saved import METHOD, load_network, told_apart

Line = tuple[int, Row]
"""(number from 1, row)."""
Lines = Path | BinaryIO | Sequence[str]
"""A text or jsonl file, plain or .gz; an open file; or lines."""


class AttachedMethod(Attached):
    """A backbone that a trained live method has changed. The method takes the place of a network."""

    def __init__(self, name: str, folder: Path, backbone: Backbone) -> None:
        """Open the folder. Raises UserError if the method was trained for another backbone."""
        super().__init__(backbone, {name: load_method(folder, backbone)})

    def _batches(self, names: Iterable[str], tokens: TokenBatch) -> Iterator[tuple[str, Any]]:
        """Yield the tokens alone: a method takes a pass of its own."""
        positions = {name: Positions(stack.mask) for name, stack in tokens.stacks.items()}
        rows = len(next(iter(tokens.stacks.values())).ids)
        for name in names:
            yield name, LiveBatch(tokens, targets(rows, positions, self.backbone.device))

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, network: str, **options: Any) -> Any:
        source = source_tokens(self.backbone, input_ids, attention_mask)
        model: Any = self.networks[network].module
        return model.generate(input_ids=source.ids, attention_mask=source.mask.long(), **options)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction of one network for one text."""

    line: int
    """Its number in the input, from 1."""
    text: str
    """The text that the backbone read; tabs separate the texts of a pair."""
    network: str
    label: str
    """The predicted label; for an open target, the generated text."""
    probabilities: dict[str, float]
    """By label; they sum to one. Empty for a regressor and for generated text."""
    value: float | None = None
    """The predicted score; None for classes and text."""


class Predictor:
    """Side networks of one task beside their backbone, and live methods, each in a backbone of its own.

    Of an open target, text is generated greedily.
    """

    def __init__(self, model: str, folders: Sequence[Path], config: PredictConfig | None = None) -> None:
        """Open the networks in `folders`, and the backbone for them.

        Raises UserError for networks of another backbone or of unlike tasks.
        """
        self.config = config = config or PredictConfig()
        if not folders:
            raise UserError("there is no network to predict with: give at least one folder")
        side = {folder: load_network(folder) for folder in folders if not (folder / METHOD).exists()}
        records = [side[folder].record if folder in side else load_record(folder) for folder in folders]
        first = records[0]
        inputs = [(record.task, record.label_ids, record.max_source_length) for record in records]
        for record, read in zip(records, inputs, strict=True):
            if read != inputs[0]:
                raise UserError(
                    f"networks {first.name} ({first.task.name}) and {record.name} ({record.task.name}) read different "
                    "inputs, so no pass can be shared: predict with the networks of one task at a time"
                )
        named = dict(zip(folders, told_apart([record.name for record in records], folders), strict=True))
        self.names = tuple(named.values())
        self.task, self.window = first.task, config.batch_size * config.look_ahead
        self.attached: list[Attached] = []
        if side:
            dtype = next(iter(side.values())).record.compute_dtype
            backbone = open_backbone(model, dtype, config.device, config.revision)
            self.attached.append(Attached(backbone, {named[folder]: one for folder, one in side.items()}))
        for folder, name in named.items():
            if folder not in side:
                backbone = open_backbone(model, "fp32", config.device, config.revision)
                self.attached.append(AttachedMethod(name, folder, backbone))
        self.backbone = self.attached[0].backbone
        self.max_source_length = first.max_source_length
        self.cut = 0
        """Texts of this run that were longer than `max_source_length` tokens."""

    def predict(self, lines: Iterable[Line]) -> Iterator[list[Prediction]]:
        """Yield the predictions of each line by every network, in the order of the lines.

        Rows of like length share a pass. Memory holds one window of lines.
        """
        remaining = iter(lines)
        while window := list(islice(remaining, self.window)):
            texts = [self.texts(row, f"line {number}") for number, row in window]
            predicted, cut = self.predict_texts(texts, self.names)
            self.cut += sum(cut)
            for (number, _), row, by_name in zip(window, texts, predicted, strict=True):
                text = self.backbone.shown(row)
                yield [
                    Prediction(number, text, name, one.label, one.probabilities, one.value)
                    for name, one in by_name.items()
                ]

    def texts(self, row: Row, where: str) -> tuple[str, ...]:
        """Return the texts that the backbone reads of a row. Raises UserError, which names the row as `where`."""
        return row_texts(self.backbone, self.task, row, where)

    def predict_texts(
        self, texts: Sequence[tuple[str, ...]], networks: Collection[str]
    ) -> tuple[list[dict[str, Classified]], list[bool]]:
        """Return each row's predictions by network, in the order of `names`, and True for each row that was cut.

        `texts` has what the method `texts` returns for each row. Rows of like length share a pass.
        """
        rows: list[dict[str, Classified]] = [{} for _ in texts]
        cut, size = [False] * len(texts), self.config.batch_size
        for attached in self.attached:
            if not (names := [name for name in attached.networks if name in networks]):
                continue
            sources = attached.tokenize(texts, names)
            cut = [source.cut for source in sources]
            if self.task.labels:
                predicted = attached.classify_sources(sources, names, size)
            else:
                options = {"max_new_tokens": self.config.max_new_tokens, "num_beams": 1, "do_sample": False}
                predicted = attached.generate_sources(sources, names, size, **options)
            for by_name, others in zip(rows, predicted, strict=True):
                by_name |= others
        return [{name: by_name[name] for name in self.names if name in by_name} for by_name in rows], cut


@contextlib.contextmanager
def open_lines(lines: Lines) -> Iterator[Iterator[Line]]:
    """Yield numbered rows. A path that ends in .gz is decompressed. Raises UserError for a file that cannot be read.

    A line is a JSON object with the task's fields, or their texts, separated by tabs.
    """
    if isinstance(lines, Sequence):
        yield ((number, parse_line(text, number)) for number, text in enumerate(lines, start=1))
        return
    if not isinstance(lines, Path):
        yield read_lines(lines, "standard input")
        return
    try:
        raw = lines.open("rb")
    except OSError as error:
        raise UserError(f"{lines} cannot be read: {error.strerror}") from error
    with raw:
        source: Any = gzip.GzipFile(fileobj=raw) if lines.suffix == ".gz" else raw
        yield read_lines(source, str(lines))


def read_lines(source: Iterable[bytes], where: str) -> Iterator[Line]:
    """Yield the lines that are not empty, one at a time. Raises UserError, which names the file as `where`."""
    number = 1
    try:
        for raw in source:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield number, parse_line(text.rstrip("\r\n"), number)
            number += 1
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{where}, line {number}, cannot be read: {error}") from error


def parse_line(text: str, number: int) -> Row:
    """Return the object of a line that starts like a JSON object; other lines as they are. Raises UserError."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        row: Row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"line {number} starts like a JSON object but is not one: {error}") from error
    return row
