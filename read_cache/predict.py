"""Text in, labels out: one backbone pass, then every network on what it said."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from read_cache.device import check_device
from read_cache.errors import UserError
from read_cache.extract.backbone import Backbone
from read_cache.extract.encode import Encoder
from read_cache.extract.forward import Example, example_activations
from read_cache.networks.batch import Batch
from read_cache.networks.collate import Collator, ExampleArrays, pad
from read_cache.networks.folder import NetworkRecord, check_backbone, load_calibration, load_network
from read_cache.networks.read import Read
from read_cache.tasks import Task
from read_cache.train.head import Head


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What one network says of one text."""

    text: str
    network: str
    label: str
    probabilities: dict[str, float]
    """By label; they sum to one."""


class Predictor:
    """A backbone and networks for one task. Raises UserError for networks of another backbone or unlike tasks."""

    def __init__(self, model: str, folders: list[Path], device: str = "cpu") -> None:
        check_device(device)
        loaded = [load_network(folder) for folder in folders]
        self.records: list[NetworkRecord] = [record for _, record in loaded]
        self.networks: list[Read] = [network.to(device) for network, _ in loaded]
        first = self.records[0]
        self.backbone = Backbone(model, dtype=first.compute_dtype, device=device)
        for record in self.records:
            check_backbone(record, self.backbone.digest, f"--model {model}")
            if inputs_of(record) != inputs_of(first):
                raise UserError(
                    f"networks {first.name} ({first.task.name}) and {record.name} ({record.task.name}) read different "
                    "inputs, so no pass can be shared: predict with the networks of one task at a time"
                )
        if not first.task.labels:
            raise UserError(f"task {first.task.name} has open targets; predict needs a closed label set")
        self.task = first.task
        self.encoder = Encoder(first.task, self.backbone.tokenizer, self.backbone.start_token, first.max_source_length)
        assert self.encoder.trie is not None
        trie = self.encoder.trie
        self.head = Head(self.backbone.head_rows(torch.from_numpy(trie.tokens)).to(device), trie)
        calibration = load_calibration(folders[0], first)
        joined = any(network.config.attention != "none" for network in self.networks)
        self.form = first.form if joined else dataclasses.replace(first.form, attention="none")
        self.calibration = calibration
        self.collator = Collator(trie.tokens, self.form, calibration, device)

    def predict(self, lines: Iterable[str], batch_size: int = 32) -> Iterator[Prediction]:
        """A prediction for each line and network, in order; `parse_line` says what a line may be."""
        remaining = enumerate(lines, start=1)
        while numbered := list(islice(remaining, batch_size)):
            rows = [parse_line(line, self.task, number) for number, line in numbered]
            texts = [self.encoder.source_text(row, f"line {n}") for (n, _), row in zip(numbered, rows, strict=True)]
            yield from self._predict_texts(texts)

    @torch.inference_mode()
    def _predict_texts(self, texts: list[str]) -> Iterator[Prediction]:
        batch = self._batch(texts)
        by_network = [self.head.scores(network(batch), batch).probabilities for network in self.networks]
        for index, text in enumerate(texts):
            for record, probabilities in zip(self.records, by_network, strict=True):
                assert probabilities is not None
                shares = dict(zip(self.task.labels, probabilities[index].tolist(), strict=True))
                yield Prediction(text, record.name, max(shares, key=shares.__getitem__), shares)

    def _batch(self, texts: list[str]) -> Batch:
        """One backbone pass over the texts, in the form the networks were trained on."""
        nodes = self.encoder.evaluation_nodes(0)
        examples = [Example(ids, nodes.token, nodes.parent) for ids in self.encoder.encode_texts(texts)]
        found = example_activations(self.backbone, examples, self.form, self.calibration)
        nowhere = np.full_like(nodes.target, -1)
        return self.collator.batch(pad([ExampleArrays(activations, nodes.trie, nowhere) for activations in found]))


def inputs_of(record: NetworkRecord) -> tuple[object, ...]:
    """What networks must have in common to share a backbone's pass; calibrations differ by store."""
    store = record.store_digest if record.form.calibrated else ""
    return record.task, record.label_ids, record.form, record.max_source_length, store


def parse_line(line: str, task: Task, number: int) -> dict[str, Any]:
    """A row of the task: a JSON object with its fields, or its fields' texts with tabs between them."""
    fields, line = task.text_fields, line.rstrip("\r\n")
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
        except ValueError as error:
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
