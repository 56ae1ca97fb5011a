"""The table of a comparison: one record a method; and the table of several tasks.

Names are those of peft's method comparison where it has them.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from read_cache.api.table import RecordsTable
from read_cache.api.training import final_record
from read_cache.networks.saved import write_text
from read_cache.report.costs import digits
from read_cache.report.frames import spread
from read_cache.report.page import template
from read_cache.store.manifest import Manifest
from read_cache.training.results import Result
from read_cache.training.step_cost import StepCost

NAME = "compare"
"""Name of the files."""
SPREADS = (1, 10, 96)
"""Numbers of networks that share one extraction."""
QUANTITIES = {"time": "wall_seconds"} | {
    name: name for name in ("device_energy_joules", "device_energy_eq4_joules", "cpu_energy_joules")
}
"""Field of `Readings` by the end of a column's name."""


@dataclasses.dataclass(frozen=True)
class Method:
    """Results and costs of one method."""

    kind: str
    cached: bool
    """True if it trains from the store, and so needs the extraction."""
    tried: Sequence[Result]
    """Results of all its networks."""
    chosen: Sequence[Result]
    """Results of the chosen configuration, one for each seed."""
    step: StepCost


class Comparison(RecordsTable):
    """One record a method, baselines first, and the facts that all share."""

    def __init__(self, records: Iterable[dict[str, Any]], facts: Mapping[str, Any]) -> None:
        super().__init__(records)
        self.facts = dict(facts)

    @property
    def title(self) -> str:
        """The backbone, the task and the metric."""
        return f"{self.facts['model']} on {self.facts['task']}: {self.facts['metric'].replace('_', ' ')}"

    def markdown(self) -> str:
        """Return the table as Markdown, with a row for each column and a column for each method."""
        lines = {
            name: [digits(value) if isinstance(value := record.get(name), int | float) else value for record in self]
            for name in self.columns[1:]
        }
        table = pd.DataFrame.from_dict(lines, orient="index", columns=[record["method"] for record in self])
        table = table.dropna(how="all").reset_index(names="")
        return template("comparison.md.j2").render(title=self.title, table=table)

    def write(self, out: Path) -> None:
        """Write compare.json, compare.csv and compare.md to a folder. Raises UserError if they cannot be written."""
        texts = {
            "json": json.dumps(self.facts | {"methods": list(self)}, indent=2) + "\n",
            "csv": self.frame.to_csv(index=False),
            "md": self.markdown(),
        }
        for suffix, text in texts.items():
            write_text(out / f"{NAME}.{suffix}", text)


def method_record(method: Method, results: Sequence[Result], manifest: Manifest, untied: int | None) -> dict[str, Any]:
    """Return the record of a method.

    `results` are all results in the folder: networks that trained together share their readings. `untied` is the number
    of the backbone's parameters if a tied LM head counts apart.
    """
    chosen, tied = method.chosen, manifest.backbone.parameters
    first, scores = chosen[0], final_record(chosen)
    steps = [result.best_epoch * -(-result.examples["train"] // result.run["batch_size"]) for result in chosen]
    peaks = [peak for result in chosen if (peak := result.readings.get("host_peak_bytes")) is not None]
    return {
        "method": method.kind,
        "validation": scores["validation"],
        "validation_deviation": scores["validation ±"],
        "test": scores["test"],
        "test_deviation": scores["test ±"],
        "validation_and_test": scores["validation_and_test"],
        "validation_and_test_deviation": scores["validation_and_test ±"],
        "seeds": len(chosen),
        "experiment_name": first.label,
        "learning_rate": first.learning_rate,
        "networks_tried": len(method.tried),
        "train_loss": fmean(result.history[result.best_epoch - 1].train_loss for result in chosen if result.history),
        "best_epoch": fmean(result.best_epoch for result in chosen),
        "num_trainable_params": first.parameters,
        "num_total_params": tied,
        "trainable_percent": 100 * first.parameters / tied,
        "trainable_percent_untied": untied and 100 * first.parameters / untied,
        "file_size": sum(file.stat().st_size for file in Path(first.folder).rglob("*.safetensors")),
        "kept_bytes": method.step.kept_bytes,
        "counted_memory": method.step.counted_memory,
        "accelerator_memory_max": method.step.accelerator_memory_max,
        "host_memory_max": max(peaks, default=None),
        "flops": method.step.flops,
        "seconds_per_step": method.step.seconds_per_step,
        "time_to_best": fmean(steps) * method.step.seconds_per_step,
        **costs(method, results),
    }


def costs(method: Method, results: Sequence[Result]) -> dict[str, float | None]:
    """Return time and energy of one network, of the search, of the extraction, and totals for `SPREADS`."""
    columns: dict[str, float | None] = {}
    sharing = Counter(json.dumps(result.readings) for result in results)
    for name, field in QUANTITIES.items():
        train, search = (_shared(group, field, sharing) for group in (method.chosen, method.tried))
        train = None if train is None else train / len(method.chosen)
        stored = (method.chosen[0].extraction or {}).get(field) if method.cached else train and 0.0
        columns |= {f"train_{name}": train, f"search_{name}": search, f"extraction_{name}": stored}
        for networks in SPREADS:
            column = f"total_{name}" + f"_{networks}_networks" * (networks > 1)
            columns[column] = None if train is None or stored is None else train + stored / networks
    return columns


def _shared(results: Sequence[Result], field: str, sharing: Counter[str]) -> float | None:
    """Return the sum of a reading over networks, which share that of a session equally; None if a network lacks it."""
    parts = [
        value / sharing[json.dumps(result.readings)]
        for result in results
        if (value := result.readings.get(field)) is not None
    ]
    return sum(parts) if len(parts) == len(results) else None


def overview(tables: Sequence[Comparison]) -> pd.DataFrame:
    """Return each method's metric by task (test; validation if a task has no test split) and the mean over tasks.

    A method without a result on some task has no mean. `search s` is the sum of the seconds of all networks that were
    tried and, for side networks, of the extractions.
    """
    methods = list(dict.fromkeys(record["method"] for table in tables for record in table))
    tested = all(any(one.get("test") is not None for one in table) for table in tables)
    split, rows = "test" if tested else "validation", []
    for method in methods:
        records = [next((one for one in table if one["method"] == method), {}) for table in tables]
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
    path = folder / "overview.md"
    write_text(path, template("overview.md.j2").render(table=frame))
    return path
