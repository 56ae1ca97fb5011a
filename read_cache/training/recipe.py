"""A recipe: settings of networks and runs, those that differ on a task, and how to search.

Options of the command line, keyword arguments and the tables of a TOML file are the same thing: a table of settings.
A setting of a network may have several values, which make a grid.
"""

import dataclasses
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from read_cache.config import RateRange, RunConfig, SearchConfig
from read_cache.errors import UserError
from read_cache.networks.base import NETWORKS
from read_cache.scoring.heads import HeadSettings
from read_cache.settings import Settings, parse
from read_cache.training.network_config import NetworkConfig

Kinds = Mapping[str, type[Settings]]
"""Settings classes by kind of network."""
HEAD = "head."
"""Prefix of a head's settings."""
OWN = ("learning_rate", "seed")
"""Settings that networks of all kinds have."""


def side_networks() -> Kinds:
    """Return the settings classes of the side networks."""
    return {kind: network.Config for kind, network in NETWORKS.items()}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The networks to train on one store."""

    choices: dict[str, Any]
    """Values of each setting that is not left at its default: a list, or for `learning_rate` a RateRange."""
    run: RunConfig
    search: SearchConfig
    kinds: Kinds

    def networks(self) -> list[NetworkConfig]:
        """Return the grid: every combination once. Raises UserError for settings that contradict each other."""
        rates = self.choices["learning_rate"]
        choices = self.choices | {"learning_rate": rates.rates() if isinstance(rates, RateRange) else rates}
        networks: dict[NetworkConfig, None] = {}
        for kind in choices["kind"]:
            own = [name for name in self.kinds[kind].model_fields if name in choices]
            names = [*own, *(name for name in choices if name.startswith(HEAD)), *OWN]
            for values in itertools.product(*(choices[name] for name in names)):
                networks[self.network(dict(zip(names, values, strict=True)) | {"kind": kind})] = None
        return list(networks)

    def network(self, values: Mapping[str, Any]) -> NetworkConfig:
        """Return the network with these values; others are the first of their choices. Raises UserError."""
        first = {name: choice[0] for name, choice in self.choices.items() if not isinstance(choice, RateRange)}
        values = first | dict(values)
        config, head = self.kinds[values["kind"]], HEAD
        return NetworkConfig(
            kind=values["kind"],
            settings=config(**{name: value for name, value in values.items() if name in config.model_fields}),
            head=HeadSettings(**{n.removeprefix(head): value for n, value in values.items() if n.startswith(head)}),
            learning_rate=float(f"{values['learning_rate']:.6g}") if self.drawn else values["learning_rate"],
            seed=values["seed"],
        )

    @property
    def drawn(self) -> bool:
        """True if learning rates are drawn from a range."""
        return isinstance(self.choices["learning_rate"], RateRange)

    @property
    def varied(self) -> list[str]:
        """Names of the settings with several values or a range."""
        return [name for name, choice in self.choices.items() if isinstance(choice, RateRange) or len(choice) > 1]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings by name: lists of values for networks, or a RateRange, and single values for runs."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Settings that replace `values` on stores of a task."""
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    kinds: Kinds = dataclasses.field(default_factory=side_networks)
    strict_tasks: bool = False
    """Every task must be that of a store. Bundled recipes name tasks that most folders lack."""

    def override(self, table: Mapping[str, Any], text: bool = False) -> "Recipe":
        """Return the recipe with the settings of a table in place of its own, on every task.

        `text` takes values as text: "8" for 8, "8,16" for [8, 16]. Raises UserError for unknown settings and wrong
        values.
        """
        given = read_table(table, self.kinds, "settings", text)
        tasks = {task: {key: v for key, v in own.items() if key not in given} for task, own in self.tasks.items()}
        return dataclasses.replace(self, values={**self.values, **given}, tasks=tasks)

    def check_tasks(self, tasks: Collection[str]) -> None:
        """Raise UserError if the recipe of a user has a table for a task of which there is no store."""
        if self.strict_tasks and (absent := sorted(set(self.tasks) - set(tasks))):
            raise UserError(
                f"the recipe has [tasks.{absent[0]}], but no store is of that task; the stores' tasks are "
                f"{', '.join(sorted(set(tasks)))}: correct its name or delete the table"
            )

    def sweep(self, task: str) -> Sweep:
        """Return what to train on a store of `task`. Raises UserError for settings that contradict each other."""
        defaults = {"kind": ["read" if "read" in self.kinds else next(iter(self.kinds))]}
        defaults |= {name: [NetworkConfig.model_fields[name].default] for name in OWN}
        values = defaults | self.values | self.tasks.get(task, {})
        run = RunConfig(**{name: value for name, value in values.items() if name in RunConfig.model_fields})
        names = [name for name in values if name not in RunConfig.model_fields]
        choices = {name: values[name] for name in sorted(names, key=OWN.__contains__)}  # OWN last: studies ask in order
        self._check_kinds(choices)
        sweep = Sweep(choices, run, self.search, self.kinds)
        rates, seeds, study = choices["learning_rate"], choices["seed"], self.search.method == "optuna"
        if len(seeds) > 1 and (self.search.final_seeds or study):
            raise UserError(f"seed is {seeds}, expected one: a search trains with one seed, then with final_seeds")
        if study and not sweep.varied:
            raise UserError(
                'method is "optuna", but no setting has several values or a range: give a list, or '
                "learning_rate = {low = 1e-4, high = 1e-2}"
            )
        if study and isinstance(rates, RateRange):
            if rates.count:
                raise UserError(f"learning_rate has count = {rates.count}, but a study has [search] trials instead")
            dataclasses.replace(sweep, choices=choices | {"learning_rate": [rates.low]}).networks()
        else:
            sweep.networks()
        return sweep

    def _check_kinds(self, choices: Mapping[str, Any]) -> None:
        """Raise UserError for a setting that no chosen kind has."""
        chosen = set(itertools.chain.from_iterable(self.kinds[kind].model_fields for kind in choices["kind"]))
        for name in choices:
            if name not in chosen and name not in ("kind", *OWN) and not name.startswith(HEAD):
                having = [kind for kind, config in self.kinds.items() if name in config.model_fields]
                raise UserError(
                    f"{name} is set, but networks of kind {', '.join(choices['kind'])} have no such setting; those of "
                    f"kind {', '.join(having)} have it"
                )


def read_table(table: Any, kinds: Kinds, where: str, text: bool = False) -> dict[str, Any]:
    """Return the settings of a table of networks and runs, each value checked by itself. Raises UserError."""
    settings: dict[str, Any] = {}
    for name, value in flatten(check_table(table, where)).items():
        place = f"{where} {name}"
        if name in RunConfig.model_fields:
            settings[name] = check_value(RunConfig, name, value, place, text)
        elif name == "learning_rate" and isinstance(value, Mapping):
            for key, bound in value.items():
                if key in RateRange.model_fields:
                    check_value(RateRange, key, bound, f"{place}.{key}", text)
            settings[name] = parse(RateRange, dict(value), place)
        else:
            value = split_commas(name, value, kinds) if text else value
            values = value if isinstance(value, list | tuple) else [value]
            if not values:
                raise UserError(f"{place}: found an empty list, expected at least one value")
            settings[name] = [check_choice(name, item, kinds, where, text) for item in values]
    return settings


def check_choice(name: str, value: Any, kinds: Kinds, where: str, text: bool) -> Any:
    """Return one value of a network's setting. Raises UserError."""
    place = f"{where} {name}"
    if name == "kind":
        if value not in kinds:
            raise UserError(f"{place}: found {value!r}, expected one of {', '.join(kinds)}")
        return value
    if name.startswith(HEAD) and name.removeprefix(HEAD) in HeadSettings.model_fields:
        return check_value(HeadSettings, name.removeprefix(HEAD), value, place, text)
    if name in OWN:
        return check_value(NetworkConfig, name, value, place, text)
    having = [config for config in kinds.values() if name in config.model_fields]
    if not having:
        heads = [HEAD + field for field in HeadSettings.model_fields]
        own = dict.fromkeys(itertools.chain.from_iterable(config.model_fields for config in kinds.values()))
        known = ["kind", *own, *OWN, *heads, *RunConfig.model_fields]
        raise UserError(f"{where}: unknown setting {name!r}; known: {', '.join(known)}")
    for config in having[:-1]:  # kinds may differ in the values they take
        try:
            return check_value(config, name, value, place, text)
        except UserError:
            continue
    return check_value(having[-1], name, value, place, text)


def check_value(model: type[BaseModel], name: str, value: Any, where: str, text: bool = False) -> Any:
    """Return a value of one field. Raises UserError. `text` takes "8" for 8; otherwise types must match."""
    field = model.model_fields[name]
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
    try:
        if text:
            return adapter.validate_python(value)
        return adapter.validate_json(json.dumps(value), strict=True)  # JSON: a list may be a tuple
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise UserError(f"{where}: found {value!r}, expected {message[:1].lower()}{message[1:]}") from error
    except TypeError as error:
        raise UserError(f"{where}: found {value!r}, expected a number, a text, true or false") from error


def flatten(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table with its table `head` as settings `head.NAME`."""
    head = table.get("head")
    if not isinstance(head, Mapping):
        return dict(table)
    own = {HEAD + name: value for name, value in head.items()}
    return {name: value for name, value in table.items() if name != "head"} | own


def check_table(value: Any, where: str) -> Mapping[str, Any]:
    """Return a table. Raises UserError for anything else."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: found {value!r}, expected a table")
    return value


def split_texts(texts: Sequence[str]) -> dict[str, str]:
    """Return the table that texts such as `hidden=8,16` stand for, for `override(…, text=True)`.

    Raises UserError for a text without `=`.
    """
    table = {}
    for item in texts:
        name, equals, value = item.partition("=")
        if not (equals and name and value):
            raise UserError(f"found the setting {item!r}, expected NAME=VALUE or NAME=VALUE,VALUE")
        table[name] = value
    return table


def split_commas(name: str, value: Any, kinds: Kinds) -> Any:
    """Return the values of a text with commas; the text itself for a setting that is free text, such as `layers`."""
    fields = [config.model_fields[name] for config in kinds.values() if name in config.model_fields]
    if not isinstance(value, str) or any(field.annotation is str for field in fields):
        return value
    return value.split(",")
