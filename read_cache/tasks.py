"""One table: each task's text, labels, metric and splits.

Formats and splits are those of Compacter and HyperFormer, which the READ paper follows; see `extract/splits.py` for
how a protocol turns into rows. A task of one's own is a TOML file with the same fields (`load_task_file`).
"""

import dataclasses
import itertools
import string
from pathlib import Path
from typing import Literal

from read_cache.errors import UserError
from read_cache.toml_file import read_toml

Metric = Literal["accuracy", "matthews", "f1_accuracy", "pearson_spearman", "token_accuracy"]
Protocol = Literal["halve_validation", "hold_out_of_train", "mnli", "as_given"]

METRICS: tuple[Metric, ...] = ("accuracy", "matthews", "f1_accuracy", "pearson_spearman", "token_accuracy")


@dataclasses.dataclass(frozen=True)
class Task:
    """How rows become text, and how predictions are scored."""

    name: str
    template: str
    """Source text of a row; `{field}` is the row's value, character by character."""
    labels: tuple[str, ...] = ()
    """The closed label set as the decoder must say it; label id i of the rows is labels[i]. Empty: an open target."""
    target: str = ""
    """Template of an open target; used where `labels` is empty."""
    label_field: str = "label"
    metric: Metric = "accuracy"
    protocol: Protocol = "as_given"
    scores: bool = False
    """Labels are numbers: a row's label is a score, said as the nearest of `labels`."""

    def __post_init__(self) -> None:
        if bool(self.labels) == bool(self.target):
            raise UserError(
                f"task {self.name!r}: give either `labels` (a closed set) or `target` (open text), not "
                f"{'both' if self.labels else 'neither'}"
            )
        if not self.name or set(self.name) & set("/\\\0") or self.name.startswith("."):
            raise UserError(f"task name {self.name!r} names folders: expected one without slashes or a leading dot")
        if self.metric not in METRICS:
            raise UserError(f"task {self.name!r}: metric {self.metric!r} is none of {', '.join(METRICS)}")
        if (self.metric == "token_accuracy") != bool(self.target):
            raise UserError(f"task {self.name!r}: metric token_accuracy belongs to open targets, and only to them")
        if len(self.labels) == 1 or len(set(self.labels)) != len(self.labels):
            raise UserError(f"task {self.name!r}: labels must be two or more and differ, found {list(self.labels)}")
        if self.scores and not _ascending_numbers(self.labels):
            raise UserError(f"task {self.name!r}: scores need labels that are ascending numbers, found {self.labels}")
        if not fields_of(self.template):
            raise UserError(f"task {self.name!r}: template {self.template!r} names no field, such as {{sentence}}")

    @property
    def text_fields(self) -> tuple[str, ...]:
        """Row fields the source text needs."""
        return fields_of(self.template)

    @property
    def target_fields(self) -> tuple[str, ...]:
        """Row fields the label or target needs."""
        return (self.label_field,) if self.labels else fields_of(self.target)


def fields_of(template: str) -> tuple[str, ...]:
    """The field names of a template, in order, each once."""
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise UserError(f"template {template!r} cannot be read: {error}") from error
    for _, name, form, conversion in fields:
        if not name or name.isdigit() or set(name) & set(".[") or form or conversion:
            raise UserError(f"template {template!r} cannot be read: a field is a column's name alone, as {{sentence}}")
    return tuple(dict.fromkeys(name or "" for _, name, _, _ in fields))


def _ascending_numbers(labels: tuple[str, ...]) -> bool:
    try:
        values = [float(label) for label in labels]
    except ValueError:
        return False
    return all(low < high for low, high in itertools.pairwise(values))


_SCORES = tuple(f"{step / 5:.1f}" for step in range(26))  # "0.0", "0.2", … "5.0", as in T5
_ENTAILMENT = ("entailment", "not_entailment")
_PAIR = "sentence1: {sentence1} sentence2: {sentence2}"

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", "cola sentence: {sentence}", ("unacceptable", "acceptable"), metric="matthews",
             protocol="halve_validation"),
        Task("sst2", "sst2 sentence: {sentence}", ("negative", "positive"), protocol="hold_out_of_train"),
        Task("mrpc", f"mrpc {_PAIR}", ("not_equivalent", "equivalent"), metric="f1_accuracy",
             protocol="halve_validation"),
        Task("stsb", f"stsb {_PAIR}", _SCORES, metric="pearson_spearman", protocol="halve_validation", scores=True),
        Task("qqp", "qqp question1: {question1} question2: {question2}", ("not_duplicate", "duplicate"),
             metric="f1_accuracy", protocol="hold_out_of_train"),
        Task("mnli", "mnli premise: {premise} hypothesis {hypothesis}", ("entailment", "neutral", "contradiction"),
             protocol="mnli"),
        Task("qnli", "qnli question: {question} sentence: {sentence}", _ENTAILMENT, protocol="hold_out_of_train"),
        Task("rte", f"rte {_PAIR}", _ENTAILMENT, protocol="halve_validation"),
        Task("wnli", f"wnli {_PAIR}", ("not_entailment", "entailment"), protocol="halve_validation"),
        Task("sample-acceptability", "cola sentence: {sentence}", ("unacceptable", "acceptable"), metric="matthews"),
        Task("sample-sentiment", "sst2 sentence: {sentence}", ("negative", "positive")),
        Task("sample-similarity", f"stsb {_PAIR}", _SCORES, metric="pearson_spearman", scores=True),
        Task("sample-entailment", f"rte {_PAIR}", _ENTAILMENT),
    )
}  # fmt: skip
SAMPLE_TASKS = tuple(name for name in TASKS if name.startswith("sample-"))


def find_task(name: str) -> Task:
    """The task of that name, or the one a TOML file describes."""
    if name.endswith(".toml"):
        return load_task_file(Path(name))
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; known: {', '.join(TASKS)}; or give a TOML file that describes one")
    return TASKS[name]


def load_task_file(path: Path) -> Task:
    """Read a custom task from TOML: the fields of `Task`, `name` defaulting to the file's name."""
    values = read_toml(path, "task file")
    types = {field.name: field.type for field in dataclasses.fields(Task)}
    if unknown := sorted(set(values) - set(types)):
        raise UserError(f"task file {path}: unknown keys {', '.join(unknown)}; known: {', '.join(types)}")
    values.setdefault("name", path.stem)
    if "template" not in values:
        raise UserError(f'task file {path}: no `template`, such as template = "topic: {{text}}"')
    labels = values.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"task file {path}: `labels` must be a list of strings")
    values["labels"] = tuple(labels)
    if values.get("protocol", "as_given") != "as_given":
        raise UserError(f"task file {path}: protocol {values['protocol']!r}; custom tasks use their files as given")
    for name in ("name", "template", "target", "label_field", "metric"):
        if not isinstance(values.get(name, ""), str):
            raise UserError(f"task file {path}: `{name}` must be a string, found {values[name]!r}")
    if not isinstance(values.get("scores", False), bool):
        raise UserError(f"task file {path}: `scores` must be true or false, found {values['scores']!r}")
    return Task(**values)
