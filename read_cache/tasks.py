"""The table of tasks: text, labels, metric and splits of each.

Formats and splits are those of Compacter and HyperFormer, which the READ paper follows; see `extraction/rows.py` for
how a protocol turns into rows. A task of one's own is a TOML file with the same fields (`load_task_file`).
"""

import itertools
import math
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from read_cache.errors import UserError
from read_cache.settings import Record, parse, read_toml

Metric = Literal["accuracy", "matthews", "f1_accuracy", "pearson_spearman", "token_accuracy"]
Protocol = Literal["halve_validation", "hold_out_of_train", "mnli", "as_given"]


class Task(Record):
    """How rows become text, and how predictions are scored."""

    name: str
    template: str
    """Source text of a row; `{field}` is the row's value, character by character."""
    labels: tuple[str, ...] = ()
    """The closed label set, as text that the decoder generates; label id i is labels[i]. Empty: open target."""
    prompt: str = ""
    """Text of a row for a decoder-only model; its last characters are constant. The default is the template."""
    words: tuple[str, ...] = ()
    """Text that a decoder-only model generates for each label. The default is the labels."""
    target: str = ""
    """Template of an open target; used where `labels` is empty."""
    label_field: str = "label"
    metric: Metric = "accuracy"
    protocol: Protocol = "as_given"
    scores: bool = False
    """Labels are numbers: a row's label is a score, and its text the nearest of `labels`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.labels) == bool(self.target):
            raise UserError(
                f"task {self.name!r}: give either `labels` (a closed set) or `target` (open text), not "
                f"{'both' if self.labels else 'neither'}"
            )
        if not self.name or set(self.name) & set("/\\\0") or self.name.startswith("."):
            raise UserError(f"task name {self.name!r} names folders: expected one without slashes or a leading dot")
        if (self.metric == "token_accuracy") != bool(self.target):
            raise UserError(f"task {self.name!r}: metric token_accuracy belongs to open targets, and only to them")
        if len(self.labels) == 1 or len(set(self.labels)) != len(self.labels):
            raise UserError(f"task {self.name!r}: labels must be two or more and differ, found {list(self.labels)}")
        if self.scores and not _ascending_numbers(self.labels):
            raise UserError(f"task {self.name!r}: scores need labels that are ascending numbers, found {self.labels}")
        if self.scores and self.metric != "pearson_spearman":
            raise UserError(f"task {self.name!r}: metric is {self.metric!r}, but scores need pearson_spearman")
        if self.metric == "f1_accuracy" and len(self.labels) != 2:
            raise UserError(f"task {self.name!r}: metric f1_accuracy needs two labels, found {len(self.labels)}")
        if not fields_of(self.template):
            raise UserError(f"task {self.name!r}: template {self.template!r} names no field, such as {{sentence}}")
        if any(not label.strip() for label in self.labels):
            raise UserError(f"task {self.name!r}: a label is empty, found {list(self.labels)}")
        if self.words and (len(self.words) != len(self.labels) or len(set(self.words)) != len(self.words)):
            raise UserError(f"task {self.name!r}: words must differ, one for each of the {len(self.labels)} labels")
        if unknown := set(fields_of(self.prompt)) - set(fields_of(self.template)):
            raise UserError(f"task {self.name!r}: prompt names fields that template does not: {', '.join(unknown)}")
        return self

    @property
    def text_fields(self) -> tuple[str, ...]:
        """Row fields that the source text needs."""
        return fields_of(self.template)

    @property
    def target_fields(self) -> tuple[str, ...]:
        """Row fields that the label or target needs."""
        return (self.label_field,) if self.labels else fields_of(self.target)

    def value(self, row: Mapping[str, Any], field: str, where: str) -> Any:
        """Return a field of a row, which messages call `where`. Raises UserError if there is no such field."""
        if field not in row:
            raise UserError(f"{where} has no field {field!r}, which task {self.name!r} needs; it has: {', '.join(row)}")
        return row[field]

    def texts(self, row: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the values of the fields that the template names. `where` is the row's name in messages.

        Raises UserError for a missing field, a value that is no text or number, text that is not Unicode, and a row
        whose fields are all empty.
        """
        values = {}
        for field in self.text_fields:
            value = values[field] = self.value(row, field, where)
            if not isinstance(value, (str, int, float)):
                raise UserError(f"{where}: {field!r} is {value!r}, expected text")
            try:
                str(value).encode()
            except UnicodeEncodeError as error:
                raise UserError(f"{where}: the text is not Unicode: {error}") from error
        if not any(str(value).strip() for value in values.values()):
            raise UserError(f"{where}: the text is empty ({', '.join(values)}): correct the data or leave the row out")
        return values


def fields_of(template: str) -> tuple[str, ...]:
    """Return the field names of a template, in order, each once."""
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
    return all(-math.inf < low < high < math.inf for low, high in itertools.pairwise(values))


_ENTAILMENT = ("entailment", "not_entailment")
_PAIR = "sentence1: {sentence1} sentence2: {sentence2}"
_SENTENCES = "Sentence 1: {sentence1}\nSentence 2: {sentence2}\n"
_YES_NO, _NO_YES = ("yes", "no"), ("no", "yes")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="cola",
            template="cola sentence: {sentence}",
            labels=("unacceptable", "acceptable"),
            prompt="Sentence: {sentence}\nIs this sentence grammatical?\nAnswer:",
            words=_NO_YES,
            metric="matthews",
            protocol="halve_validation",
        ),
        Task(
            name="sst2",
            template="sst2 sentence: {sentence}",
            labels=("negative", "positive"),
            prompt="Review: {sentence}\nSentiment:",
            protocol="hold_out_of_train",
        ),
        Task(
            name="mrpc",
            template=f"mrpc {_PAIR}",
            labels=("not_equivalent", "equivalent"),
            prompt=f"{_SENTENCES}Do both sentences mean the same?\nAnswer:",
            words=_NO_YES,
            metric="f1_accuracy",
            protocol="halve_validation",
        ),
        Task(
            name="stsb",
            template=f"stsb {_PAIR}",
            labels=tuple(f"{step / 5:.1f}" for step in range(26)),  # "0.0", "0.2", … "5.0", as in T5
            prompt=f"{_SENTENCES}How similar are they, from 0.0 to 5.0?\nAnswer:",
            metric="pearson_spearman",
            protocol="halve_validation",
            scores=True,
        ),
        Task(
            name="qqp",
            template="qqp question1: {question1} question2: {question2}",
            labels=("not_duplicate", "duplicate"),
            prompt="Question 1: {question1}\nQuestion 2: {question2}\nDo both questions mean the same?\nAnswer:",
            words=_NO_YES,
            metric="f1_accuracy",
            protocol="hold_out_of_train",
        ),
        Task(
            name="mnli",
            template="mnli premise: {premise} hypothesis {hypothesis}",
            labels=("entailment", "neutral", "contradiction"),
            prompt="Premise: {premise}\nHypothesis: {hypothesis}\nIs the hypothesis true?\nAnswer:",
            words=("yes", "maybe", "no"),
            protocol="mnli",
        ),
        Task(
            name="qnli",
            template="qnli question: {question} sentence: {sentence}",
            labels=_ENTAILMENT,
            prompt="Question: {question}\nSentence: {sentence}\nDoes the sentence answer the question?\nAnswer:",
            words=_YES_NO,
            protocol="hold_out_of_train",
        ),
        Task(
            name="rte",
            template=f"rte {_PAIR}",
            labels=_ENTAILMENT,
            prompt=f"{_SENTENCES}Does sentence 1 entail sentence 2?\nAnswer:",
            words=_YES_NO,
            protocol="halve_validation",
        ),
    )
}
TASKS["wnli"] = TASKS["rte"].replaced(name="wnli", template=f"wnli {_PAIR}", labels=_ENTAILMENT[::-1], words=_NO_YES)
_SAMPLES = {"acceptability": "cola", "sentiment": "sst2", "similarity": "stsb", "entailment": "rte"}
TASKS |= {
    f"sample-{sample}": TASKS[task].replaced(name=f"sample-{sample}", protocol="as_given")
    for sample, task in _SAMPLES.items()
}
SAMPLE_TASKS = tuple(name for name in TASKS if name.startswith("sample-"))


def find_task(name: str | Path) -> Task:
    """Return the task of that name, or the one that a TOML file describes. Raises UserError."""
    name = str(name)
    if name.endswith(".toml"):
        return load_task_file(Path(name))
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; known: {', '.join(TASKS)}; or give a TOML file that describes one")
    return TASKS[name]


def load_task_file(path: Path) -> Task:
    """Read a custom task from TOML: the fields of `Task`, `name` defaulting to the file's name. Raises UserError."""
    values, where = read_toml(path, "task file"), f"task file {path}"
    if unknown := sorted(set(values) - set(Task.model_fields)):
        raise UserError(f"{where}: unknown keys {', '.join(unknown)}; known: {', '.join(Task.model_fields)}")
    values.setdefault("name", path.stem)
    if "template" not in values:
        raise UserError(f'{where}: no `template`, such as template = "topic: {{text}}"')
    if values.get("protocol", "as_given") != "as_given":
        raise UserError(f"{where}: protocol {values['protocol']!r}; custom tasks use their files as given")
    return parse(Task, values, where)
