"""A recipe: settings of networks and runs, those that differ on a task, and how to search.

Options, keyword arguments and TOML files are read alike. Several values of a network's setting make a grid, and
`KIND.setting` is a setting of one kind alone. A file has the tables [network], [run], [search], [network.KIND], and
[tasks.TASK] with settings that replace the others on stores of that task.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic.fields import FieldInfo

from read_cache.config import RateRange, RunConfig, SearchConfig
from read_cache.errors import UserError
from read_cache.networks.base import NETWORKS
from read_cache.scoring.heads import HeadSettings
from read_cache.settings import Settings, check_value, fields_of, parse, plain, read_toml, unknown_setting
from read_cache.training.network_config import NetworkConfig

Kinds = Mapping[str, type[Settings]]
"""Settings classes by kind of network."""
HEAD = "head."
"""Prefix of a head's settings."""
OWN = ("learning_rate", "seed")
"""Settings that networks of all kinds have."""
BUNDLED = Path(__file__).parent / "recipes"
TABLES = ("network", "run", "tasks", "search")


def side_networks() -> Kinds:
    """Return the settings classes of the side networks."""
    return {kind: network.Config for kind, network in NETWORKS.items()}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The networks to train on one store."""

    choices: dict[str, Any]
    """Values of each setting that is not left at its default."""
    run: RunConfig
    search: SearchConfig
    kinds: Kinds
    runs: dict[str, RunConfig] = dataclasses.field(default_factory=dict)
    """By kind: its own settings of the run, where it trains apart from the other kinds."""

    def networks(self) -> list[NetworkConfig]:
        """Return every combination once. Raises UserError for settings that contradict each other."""
        networks: dict[NetworkConfig, None] = {}
        for kind in self.choices["kind"]:
            settings, prefix = self.kinds[kind], f"{kind}."
            of_kind = {n.removeprefix(prefix): values for n, values in self.choices.items() if n.startswith(prefix)}
            own = self.choices | of_kind
            heads = [name for name in own if name.startswith(HEAD)]
            names = [name for name in (*settings.model_fields, *heads, *OWN) if name in own]
            for values in itertools.product(*(own[name] for name in names)):
                value = dict(zip(names, values, strict=True))
                network = NetworkConfig(
                    kind=kind,
                    settings=settings(**{name: value[name] for name in names if name in settings.model_fields}),
                    head=HeadSettings(**{name.removeprefix(HEAD): value[name] for name in heads}),
                    **{name: value[name] for name in OWN},
                )
                networks[network] = None
        return list(networks)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings by name: lists of values for networks, and single values for runs."""

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
        unused = self.kinds.keys() - given["kind"] if "kind" in given else ()  # their tables mean nothing any more

        def replaced(name: str) -> bool:
            kind, _, setting = name.partition(".")
            return name in given or kind in unused or (kind in self.kinds and setting in given)

        def kept(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if not replaced(name)}

        tasks = {task: kept(own) for task, own in self.tasks.items()}
        return dataclasses.replace(self, values=kept(self.values) | given, tasks=tasks)

    def check_tasks(self, tasks: Collection[str]) -> None:
        """Raise UserError if the recipe of a user has a table for a task of which there is no store."""
        if self.strict_tasks and (absent := sorted(set(self.tasks) - set(tasks))):
            raise UserError(
                f"the recipe has [tasks.{absent[0]}], but no store is of that task; the stores' tasks are "
                f"{', '.join(sorted(set(tasks)))}: correct its name or delete the table"
            )

    def sweep(self, task: str, apart: bool = False) -> Sweep:
        """Return what to train on a store of `task`. Raises UserError for settings that contradict each other.

        `apart`: each kind trains by itself, so that KIND.epochs and its like may differ.
        """
        defaults = {"kind": ["read" if "read" in self.kinds else next(iter(self.kinds))]}
        defaults |= {name: [NetworkConfig.model_fields[name].default] for name in OWN}
        values = defaults | self.values | self.tasks.get(task, {})
        of_run, of_kinds, choices = dict[str, Any](), dict[str, dict[str, Any]](), dict[str, Any]()
        for name, value in values.items():
            kind, _, setting = name.rpartition(".")
            if name in RunConfig.model_fields:
                of_run[name] = value
            elif kind in self.kinds and setting in RunConfig.model_fields:
                of_kinds.setdefault(kind, {})[setting] = value
            else:
                choices[name] = value
        named = [f"{kind}.{setting}" for kind, own in of_kinds.items() for setting in own]
        self._check_kinds([*choices, *named], choices["kind"])
        runs = {kind: RunConfig(**of_run | own) for kind, own in of_kinds.items()}
        if runs and not apart:
            kind, (setting, *_) = next(iter(of_kinds.items()))
            raise UserError(f"{kind}.{setting}: networks that train together share {setting}: give it without {kind}")
        sweep = Sweep(choices, RunConfig(**of_run), self.search, self.kinds, runs)
        if len(choices["seed"]) > 1 and self.search.final_seeds:
            raise UserError(f"seed is {choices['seed']}, expected one: a grid trains with one seed, then final_seeds")
        sweep.networks()
        return sweep

    def _check_kinds(self, names: Collection[str], kinds: Sequence[str]) -> None:
        """Raise UserError for a setting that no chosen kind has."""
        chosen = fields_of(*(self.kinds[kind] for kind in kinds))
        for name in names:
            kind = name.partition(".")[0]
            if kind in self.kinds and kind not in kinds:
                raise UserError(f"{name} is set, but the chosen kinds are {', '.join(kinds)}")
            if name not in (*chosen, "kind", *OWN) and not name.startswith(HEAD) and kind not in self.kinds:
                having = [kind for kind, config in self.kinds.items() if name in config.model_fields]
                raise UserError(
                    f"{name} is set, but networks of kind {', '.join(kinds)} have no such setting; those of "
                    f"kind {', '.join(having)} have it"
                )


def load_recipe(name: str, kinds: Kinds | None = None) -> Recipe:
    """Return the recipe of a TOML file, or a bundled one by name. Raises UserError with the table and the setting."""
    path = Path(name) if name.endswith(".toml") else BUNDLED / f"{name}.toml"
    bundled = sorted(file.stem for file in BUNDLED.glob("*.toml"))
    if not name.endswith(".toml") and name not in bundled:
        raise UserError(f"unknown recipe {name!r}; bundled: {', '.join(bundled)}; or give a TOML file")
    tables = read_toml(path, "recipe")
    try:
        return parse_recipe(tables, kinds or side_networks(), strict_tasks=path.parent != BUNDLED)
    except UserError as error:
        raise UserError(f"recipe {path}: {error}") from error


def parse_recipe(tables: Mapping[str, Any], kinds: Kinds, strict_tasks: bool) -> Recipe:
    """Return the recipe that the tables of a TOML file contain. Raises UserError."""
    if unknown := [name for name in tables if name not in TABLES]:
        raise UserError(unknown_setting(unknown[0], TABLES))
    network, run, given, search = (check_table(tables.get(name, {}), f"[{name}]") for name in TABLES)
    if misplaced := [name for name in network if name in RunConfig.model_fields]:
        raise UserError(f"[network]: {misplaced[0]} is a setting of [run]")
    values = read_table(network, kinds, "[network]")
    values |= {name: check_value(name, value, fields_of(RunConfig), "[run]") for name, value in run.items()}
    tasks = {task: read_table(table, kinds, f"[tasks.{task}]") for task, table in given.items()}
    searched = {name: check_value(name, value, fields_of(SearchConfig), "[search]") for name, value in search.items()}
    recipe = Recipe(values, tasks, SearchConfig(**searched), kinds, strict_tasks)
    recipe.sweep("", apart=True)
    for task in tasks:
        try:
            recipe.sweep(task, apart=True)
        except UserError as error:
            raise UserError(f"[tasks.{task}]: {error}") from error
    return recipe


def read_table(table: Any, kinds: Kinds, where: str, text: bool = False) -> dict[str, Any]:
    """Return the settings of a table of networks and runs, each value checked by itself. Raises UserError."""
    own = fields_of(*kinds.values())
    head = {HEAD + name: [field] for name, field in HeadSettings.model_fields.items()}
    fields = {"kind": [FieldInfo(annotation=Literal[tuple(kinds)])]} | own  # type: ignore[arg-type]
    fields |= {name: [NetworkConfig.model_fields[name]] for name in OWN} | head | fields_of(RunConfig)
    settings: dict[str, Any] = {}
    table = dict(check_table(table, where))
    if isinstance(table.get("head"), Mapping):
        table |= {HEAD + name: value for name, value in table.pop("head").items()}
    for name, value in table.items():
        kind, _, setting = name.partition(".")
        if kind in kinds and (setting or isinstance(value, Mapping)):  # KIND.setting, or a table of a kind
            one_kind = read_table({setting: value} if setting else value, {kind: kinds[kind]}, f"{where} {kind}", text)
            if shared := [own for own in one_kind if own in ("kind", "seed")]:
                raise UserError(
                    f"{where} {kind}.{shared[0]}: {shared[0]} is the same for all kinds: give it without {kind}"
                )
            settings |= {f"{kind}.{own}": values for own, values in one_kind.items()}
        elif name == "learning_rate" and isinstance(value, Mapping):
            settings[name] = parse(RateRange, dict(value), f"{where} {name}").rates()
        elif name in RunConfig.model_fields:
            settings[name] = check_value(name, value, fields, where, text)
        else:
            free_text = any(field.annotation is str for field in own.get(name, ()))  # such as layers
            if isinstance(value, range) or hasattr(value, "tolist"):
                value = plain(value)
            values = list(value) if isinstance(value, list | tuple) else [value]
            if text and not free_text:
                values = value.split(",")
            if not values:
                raise UserError(f"{where} {name}: found an empty list, expected at least one value")
            settings[name] = [check_value(name, item, fields, where, text) for item in values]
    return settings


def check_table(value: Any, where: str) -> Mapping[str, Any]:
    """Return a table. Raises UserError for anything else."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: found {value!r}, expected a table")
    return value
