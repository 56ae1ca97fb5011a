"""A recipe: values of the options of `read-cache train`, those that differ on a task, and how to search."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from read_cache.errors import UserError
from read_cache.networks.config import ReadConfig
from read_cache.store.schema import Attention
from read_cache.train.grid import NetworkConfig, TrainConfig, grid


@dataclasses.dataclass(frozen=True)
class RateRange:
    """Learning rates between two bounds."""

    low: float
    high: float
    count: int = 0
    """How many a grid takes; a study draws its own."""
    spacing: Literal["log", "random"] = "log"
    """Evenly spaced on a log scale with both bounds, or drawn evenly from that scale."""
    seed: int = 0
    """Decides what is drawn."""

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 1:
            raise UserError(f"low is {self.low} and high is {self.high}, expected 0 < low < high < 1")
        if self.spacing not in ("log", "random"):
            raise UserError(f"spacing {self.spacing!r} is none of log, random")
        for name in ("count", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, expected 0 or more")

    def rates(self) -> list[float]:
        """All of them. Raises UserError where there is no count."""
        if not self.count:
            raise UserError("learning_rate has no count: a grid needs one, such as count = 32")
        if self.spacing == "log":
            drawn = np.geomspace(self.low, self.high, self.count)
        else:
            low, high = np.log([self.low, self.high])
            drawn = np.exp(np.random.default_rng(self.seed).uniform(low, high, self.count))
        return [six_digits(rate) for rate in drawn]


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """How the best network of a task is looked for."""

    method: Literal["grid", "optuna"] = "grid"
    """Every network of the grid at once, or an Optuna study (TPE) over lists and a learning rate range."""
    trials: int = 32
    """Networks of a study."""
    batch: int = 8
    """So many of them are trained at a time, in one read of the store an epoch."""
    seed: int = 0
    """Decides what a study tries."""
    final_seeds: tuple[int, ...] = ()
    """Seeds with which the best network of each task by validation is trained in the end."""

    def __post_init__(self) -> None:
        if self.method not in ("grid", "optuna"):
            raise UserError(f"method {self.method!r} is none of grid, optuna")
        for name in ("trials", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}, expected 0 or more and under 2**32")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on one store."""

    choices: dict[str, Any]
    """Of every network option a list of values; of learning_rate a list or a RateRange."""
    run: TrainConfig
    search: SearchConfig

    def reads(self) -> list[ReadConfig]:
        """Every combination of the options that are not of training. Raises UserError."""
        choices = itertools.product(*(self.choices[name] for name in READ))
        return [ReadConfig(**dict(zip(READ, choice, strict=True))) for choice in choices]

    def networks(self) -> list[NetworkConfig]:
        """The grid: every combination once. Raises UserError."""
        rates = self.choices["learning_rate"]
        rates = rates.rates() if isinstance(rates, RateRange) else rates
        return grid(self.reads(), rates, self.choices["seed"])


READ = {field.name: field.type for field in dataclasses.fields(ReadConfig)}
NETWORK = READ | {"learning_rate": float, "seed": int}
RUN = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
DEFAULTS: dict[str, Any] = {
    **{name: [getattr(ReadConfig, name)] for name in READ},
    "learning_rate": [NetworkConfig.learning_rate],
    "seed": [NetworkConfig.seed],
    **dataclasses.asdict(TrainConfig()),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Values by option name: lists of network options, or a RateRange, and single values of run options."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """What differs on stores of a task."""
    search: SearchConfig = SearchConfig()

    def override(self, given: Mapping[str, Any]) -> "Recipe":
        """With the values of `given`, on every task."""
        tasks = {
            task: {key: value for key, value in table.items() if key not in given} for task, table in self.tasks.items()
        }
        return dataclasses.replace(self, values={**self.values, **given}, tasks=tasks)

    def plan(self, task: str, attention: Attention) -> Plan:
        """What to train on a store of `task` that holds `attention`, the default. Raises UserError."""
        values = DEFAULTS | {"attention": [attention]} | self.values | self.tasks.get(task, {})
        run = TrainConfig(**{name: values[name] for name in RUN})
        plan = Plan({name: values[name] for name in NETWORK}, run, self.search)
        rates, seeds = plan.choices["learning_rate"], plan.choices["seed"]
        if len(seeds) > 1 and (self.search.final_seeds or self.search.method == "optuna"):
            raise UserError(f"seed is {seeds}, expected one: a search trains with one seed, and final_seeds follow")
        combined = plan
        if self.search.method == "optuna" and isinstance(rates, RateRange):
            if rates.count:
                raise UserError(f"learning_rate has count = {rates.count}: a study has [search] trials instead")
            combined = dataclasses.replace(plan, choices=plan.choices | {"learning_rate": [rates.low]})
        combined.networks()  # refuses options that contradict each other before anything is trained
        return plan


def six_digits(rate: float) -> float:
    """The rate, rounded to what a network's name can well show."""
    return float(f"{rate:.6g}")
