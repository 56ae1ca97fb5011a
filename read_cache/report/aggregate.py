"""Networks by configuration, the choice on validation, mean and deviation over seeds.

The protocol: of a task's configurations (everything but the seed), the one with the best mean validation metric is
chosen, and the test metric is reported for it alone, over its seeds.
"""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeGuard

from read_cache.errors import UserError
from read_cache.train.grid import TrainConfig
from read_cache.train.results import Result, run_settings
from read_cache.train.sweep import DROPPED

NEEDED = (
    "task", "validation", "test", "test_details", "best_epoch", "stopped", "parameters", "parameters_percent",
    "learning_rate", "seed", "read", "history", "folder", "store",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Spread:
    """Of some values, in their unit."""

    mean: float
    deviation: float | None
    """The sample's (divided by n - 1); one value has none."""
    n: int

    def __format__(self, form: str) -> str:
        """As "6.6 ± 8.2" where `form` is ".1f"; ".2f" unless given."""
        numbers = [self.mean] if self.deviation is None else [self.mean, self.deviation]
        return " ± ".join(format(number, form or ".2f") for number in numbers)

    def __str__(self) -> str:
        """As "6.56 ± 8.19"."""
        return format(self)


def is_finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a number at all."""
    return value is not None and math.isfinite(value)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and sample deviation of the values that are finite; None where there are none."""
    found = [value for value in values if is_finite(value)]
    if not found:
        return None
    return Spread(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def best_first(results: Sequence[Result]) -> list[Result]:
    """Networks by their validation metric; those that finished no epoch have none and are last."""
    return sorted(results, key=lambda result: -result["validation"] if is_finite(result["validation"]) else math.inf)


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Networks that differ in nothing but the seed, on one store."""

    label: str
    """Its networks' name without the seed, and the settings of its run where those differ within the store."""
    shape: str
    """The label without the learning rate."""
    results: tuple[Result, ...]
    """By seed."""

    @property
    def learning_rate(self) -> float:
        """The peak."""
        return self.results[0]["learning_rate"]

    @property
    def validation(self) -> Spread | None:
        """Over the seeds that finished an epoch; None where none did."""
        return spread(result["validation"] for result in self.results)

    @property
    def seeds(self) -> int:
        """How many finished an epoch."""
        return self.validation.n if self.validation else 0

    @property
    def dropped(self) -> bool:
        """Whether every network was dropped for others before its last epoch."""
        return all(result["stopped"].startswith(DROPPED) for result in self.results)

    @property
    def test(self) -> Spread | None:
        """Over the same seeds; None where the store has no test split."""
        return spread(result["test"] for result in self.results)

    @property
    def test_details(self) -> dict[str, Spread | None]:
        """Each part of the test metric."""
        names = dict.fromkeys(name for result in self.results for name in result["test_details"])
        return {name: spread(result["test_details"].get(name) for result in self.results) for name in names}


@dataclasses.dataclass(frozen=True)
class StoreResults:
    """All that a run holds of one store."""

    title: str
    """The task, and the store where the run has several of that task."""
    task: str
    store: str
    digest: str
    configurations: tuple[Configuration, ...]
    """Those with the most seeds first, and the best mean validation metric first among them."""

    @property
    def results(self) -> list[Result]:
        """Of every network."""
        return [result for configuration in self.configurations for result in configuration.results]

    @property
    def chosen(self) -> Configuration | None:
        """The best mean validation metric among the configurations with the most seeds; None where no network has one.

        A configuration with fewer seeds is not compared: the best of many single seeds would win by luck.
        """
        best = self.configurations[0]
        return best if best.validation else None

    @property
    def passed_over(self) -> Configuration | None:
        """The best configuration with fewer seeds, where its mean is better than that of the chosen one."""
        best = max(self.configurations, key=lambda c: c.validation.mean if c.validation else -math.inf)
        return best if best.seeds < self.configurations[0].seeds else None

    @property
    def metric(self) -> str:
        """The metric in words, as far as the results tell."""
        parts: dict[str, float] = next((r["test_details"] for r in self.results if r["test_details"]), {})
        words = " and ".join(parts).replace("_", " ") or "metric"
        return f"mean of {words}" if len(parts) > 1 else words


def by_store(results: Sequence[Result]) -> list[StoreResults]:
    """Results of a run by store, in their order; of two results of one network the later holds. Raises UserError."""
    stores: defaultdict[str, dict[str, Result]] = defaultdict(dict)
    for result in results:
        if missing := [name for name in NEEDED if name not in result]:
            raise UserError(
                f"the result of {result['network']} lacks {', '.join(missing)}: delete its line of results.jsonl, and "
                "train it again"
            )
        stores[result["store_digest"]][result["network"]] = result
    groups = [list(networks.values()) for networks in stores.values()]
    tasks = [group[0]["task"] for group in groups]
    found = []
    for task, group in zip(tasks, groups, strict=True):
        path, digest = group[0]["store"], group[0]["store_digest"]
        title = task if tasks.count(task) == 1 else f"{task} ({path}, {digest[:8]})"
        found.append(StoreResults(title, task, path, digest, configurations(group)))
    return found


def configurations(results: Sequence[Result]) -> tuple[Configuration, ...]:
    """Results of one store by configuration, best first.

    Halving stops networks and changes none that goes on: further seeds, trained without it, are of the configuration
    that the search chose.
    """
    runs = [run_settings(result) for result in results]
    differing = [
        field.name
        for field in dataclasses.fields(TrainConfig)
        if field.name != "halving" and any(run[field.name] != runs[0][field.name] for run in runs)
    ]
    groups: defaultdict[tuple[str, str], list[Result]] = defaultdict(list)
    for result, run in zip(results, runs, strict=True):
        settings = ", ".join(f"{name.replace('_', ' ')} {run[name]}" for name in differing)
        groups[result["network"].removesuffix(f"-seed{result['seed']}"), settings].append(result)
    found = []
    for (name, settings), group in groups.items():
        after = f" ({settings})" if settings else ""
        seeds = tuple(sorted(group, key=lambda result: result["seed"]))
        found.append(Configuration(name + after, name.rpartition("-lr")[0] + after, seeds))
    return tuple(sorted(found, key=lambda c: (-c.seeds, -c.validation.mean if c.validation else 0.0)))


def average_over_tasks(chosen: Sequence[Configuration | None]) -> Spread | None:
    """Mean test metric of a configuration a task; None where one has no test metric.

    Its deviation is that of each seed's average, where all tasks have the same seeds.
    """
    by_task = [
        {result["seed"]: result["test"] for result in one.results if is_finite(result["test"])} if one else {}
        for one in chosen
    ]
    if not all(by_task):
        return None
    if all(seeds.keys() == by_task[0].keys() for seeds in by_task):
        return spread(statistics.fmean(seeds[seed] for seeds in by_task) for seed in by_task[0])
    return Spread(statistics.fmean(statistics.fmean(seeds.values()) for seeds in by_task), None, 1)


def average_test(stores: Sequence[StoreResults]) -> float | None:
    """Mean over tasks of the chosen configurations' mean test metric.

    None where a task has no test metric, or several stores: then there is no one figure a task.
    """
    tests = [store.chosen.test if store.chosen else None for store in stores]
    found = [test.mean for test in tests if test]
    if len(found) < len(stores) or len({store.task for store in stores}) < len(stores):
        return None
    return statistics.fmean(found)
