"""Figures of the READ paper, to stand beside those of runs."""

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TASKS = {
    "cola": "CoLA", "mnli": "MNLI", "qnli": "QNLI", "mrpc": "MRPC", "qqp": "QQP", "sst2": "SST-2", "stsb": "STS-B",
}  # fmt: skip
"""The paper's seven tasks, in the order of its columns, as it writes them."""


@functools.cache
def paper() -> dict[str, Any]:
    """Return paper.toml: the rows of `table1` and `table2` as printed, and `rows`, the examples of GLUE's splits."""
    return tomllib.loads(Path(__file__).with_name("paper.toml").read_text(encoding="utf-8"))


def official_rows(task: str) -> dict[str, int]:
    """Return the examples by split of a GLUE task under the paper's protocol; empty for another task."""
    return paper()["rows"].get(task, {})


def partial_rows(task: str, examples: Mapping[str, int]) -> str:
    """Return the splits of a GLUE task that have fewer examples than under the protocol; empty if there are none."""
    return ", ".join(
        f"{split} {examples[split]:,} of {count:,}"
        for split, count in official_rows(task).items()
        if examples.get(split, count) < count
    )
