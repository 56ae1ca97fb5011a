"""What the READ paper reports, to stand beside what was measured here."""

import dataclasses
import functools
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

Table = Literal["table1", "table2"]

FILE = Path(__file__).with_name("paper.toml")
TASKS = {
    "cola": "CoLA", "mnli": "MNLI", "qnli": "QNLI", "mrpc": "MRPC", "qqp": "QQP", "sst2": "SST-2", "stsb": "STS-B",
}  # fmt: skip
"""The seven tasks by name, in the order of the paper's columns, as the paper writes them."""


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper, as printed."""

    method: str
    backbone: str
    parameters_percent: float
    scores: dict[str, float]
    """By task: the test metric, times 100."""
    average: float
    """As printed, which is no mean of `scores`."""
    power_kw: float | None = None
    energy_kwh: float | None = None

    def mean(self, tasks: Iterable[str]) -> float:
        """Of the scores of some tasks."""
        return fmean(self.scores[task] for task in tasks)

    @property
    def name(self) -> str:
        """What tells it from a row of ours."""
        return f"{self.method}, paper"


def paper_rows(table: Table) -> list[PaperRow]:
    """The rows of Table 1 or Table 2, in their order."""
    return [PaperRow(**row) for row in _figures()[table]]


def official_rows(task: str) -> dict[str, int]:
    """Rows of each split of a GLUE task under the paper's protocol; of another task, none."""
    return _figures()["rows"].get(task, {})


def partial_rows(task: str, examples: Mapping[str, int]) -> str:
    """Which splits of a GLUE task have fewer rows than the protocol gives; nothing where none has."""
    return ", ".join(
        f"{split} {examples[split]:,} of {count:,}"
        for split, count in official_rows(task).items()
        if examples.get(split, count) < count
    )


@functools.cache
def _figures() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))
