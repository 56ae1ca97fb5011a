"""READ on the tasks of a benchmark: one row for each backbone, with and without recurrence, as in Tables 1 and 2."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from read_cache.errors import UserError
from read_cache.report.aggregate import Spread, StoreResults, average_over_tasks, by_store
from read_cache.report.costs import Cost, store_cost, summed
from read_cache.report.paper import TASKS, official_rows, paper_rows, partial_rows
from read_cache.train.results import Result, read_results


@dataclasses.dataclass(frozen=True)
class ReadRow:
    """READ networks of one backbone, all recurrent or none; by task the configuration chosen on validation counts."""

    backbone: str
    recurrent: bool
    stores: tuple[StoreResults, ...]
    """One a task, in the order of the paper's columns, then by name."""
    beside_others: bool = False
    """Whether the table has rows of other backbones."""

    @property
    def name(self) -> str:
        """As the paper names its like, with the backbone where the table has several."""
        large = "-large" if in_paper(self.backbone) == "t5-large" else ""
        on = f" on {self.backbone}" if self.beside_others else ""
        return f"READ{large}{'' if self.recurrent else ' without recurrency'}{on}, here"

    @property
    def tasks(self) -> list[str]:
        """Their names."""
        return [store.task for store in self.stores]

    @property
    def scores(self) -> dict[str, Spread | None]:
        """Test metric by task, times 100, over seeds; None where no network finished an epoch or nothing is tested."""
        return {store.task: store.chosen.test if store.chosen else None for store in self.stores}

    @property
    def average(self) -> Spread | None:
        """Over tasks; its deviation is that of each seed's average, where all tasks have the same seeds."""
        return average_over_tasks([store.chosen for store in self.stores])

    @property
    def parameters_percent(self) -> list[float]:
        """Trainable parameters in per cent of the backbone's: the least and the most over tasks."""
        found = [store.chosen.results[0]["parameters_percent"] for store in self.stores if store.chosen]
        return [min(found), max(found)] if found else []

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """By task."""
        return {store.task: store_cost(store) for store in self.stores}

    @cached_property
    def cost(self) -> Cost:
        """Of all tasks."""
        return summed(self.costs.values())


def read_found(paths: Iterable[Path]) -> list[Result]:
    """Results that `read-cache train` left: a run folder, or a file of what its --json printed. Raises UserError."""
    results: list[Result] = []
    for path in paths:
        try:
            found = read_results(path) if path.is_dir() else json.loads(path.read_text(encoding="utf-8"))
            results += [dict(result) for result in found]
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path} holds no results: expected what read-cache train --json prints ({error})"
            ) from error
    if not results:
        raise UserError("no results: expected a run folder of read-cache train, or a file of what its --json prints")
    return results


def read_rows(results: Sequence[Result]) -> list[ReadRow]:
    """One row for each backbone and kind, the recurrent first. Raises UserError where a task has several stores."""
    groups: dict[tuple[bool, str], list[Result]] = {}
    for result in results:
        try:
            key = (not result["read"]["recurrent"], result["backbone"])
        except (KeyError, TypeError) as error:
            raise UserError(f"a result lacks {error}: it is of an older version, train its network again") from error
        groups.setdefault(key, []).append(result)
    rows, several = [], len({backbone for _, backbone in groups}) > 1
    for (untied, backbone), group in sorted(groups.items(), key=lambda item: item[0]):
        stores = sorted(by_store(group), key=lambda store: _place(store.task))
        for one, other in itertools.pairwise(stores):
            if one.task == other.task:
                raise UserError(
                    f"{one.task} was trained on two stores, {one.store} ({one.digest[:8]}) and {other.store} "
                    f"({other.digest[:8]}): give the results of one"
                )
        rows.append(ReadRow(backbone, not untied, tuple(stores), several))
    return rows


def partial_set(store: StoreResults) -> str:
    """Which splits of a GLUE task have fewer rows than the protocol gives; nothing where none has."""
    examples = store.results[-1].get("examples", {})
    return partial_rows(store.task, examples) if examples or not official_rows(store.task) else "of unknown size"


def in_paper(backbone: str) -> str | None:
    """The paper's backbone of that name, whoever's copy of it this is."""
    return next((row.backbone for row in paper_rows("table1") if row.backbone == backbone.rpartition("/")[2]), None)


def _place(task: str) -> tuple[int, str]:
    return (list(TASKS).index(task) if task in TASKS else len(TASKS), task)
