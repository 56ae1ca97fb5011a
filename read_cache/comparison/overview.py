"""The comparisons of several tasks in one table: a row for each method, a column for each task, and plain means."""

from collections.abc import Sequence
from math import nan
from pathlib import Path

import pandas as pd

from read_cache.comparison.table import Comparison
from read_cache.networks.saved import write_text
from read_cache.report.frames import spread
from read_cache.report.page import template

FILE = "overview.md"


def overview(tables: Sequence[Comparison]) -> pd.DataFrame:
    """Return each method's metric by task (test; validation if a task has no test split) and the plain mean over tasks.

    A method without a result on some task has no mean. `search s` is the sum of the seconds of all networks that were
    tried and, for side networks, of the extractions.
    """
    methods = list(dict.fromkeys(record["method"] for table in tables for record in table))
    rows = []
    for method in methods:
        records = [next((one for one in table if one["method"] == method), {}) for table in tables]
        split = "validation" if any(one.get("test") is None for table in tables for one in table) else "test"
        scores = [one.get(split) for one in records]
        cells = [spread(one.get(split, nan), one.get(f"{split}_deviation") or nan) for one in records]
        whole = [score for score in scores if score is not None]
        row = {"method": method} | dict(zip([table.facts["task"] for table in tables], cells, strict=True))
        row["mean"] = round(sum(whole) / len(whole), 2) if len(whole) == len(tables) else None
        row["trainable %"] = records[0].get("trainable_percent")
        seconds = [
            one["search_time"] + (one.get("extraction_time") or 0)
            for one in records
            if one.get("search_time") is not None
        ]
        row["search s"] = round(sum(seconds)) if len(seconds) == len(tables) else None
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def write_overview(frame: pd.DataFrame, folder: Path) -> Path:
    """Write the table as Markdown; return the file. Raises UserError if it cannot be written."""
    path = folder / FILE
    write_text(path, template("overview.md.j2").render(table=frame))
    return path
