"""A recipe's TOML file.

[network]   fields of ReadConfig, learning_rate and seed; a list of values makes a grid
[run]       fields of TrainConfig
[tasks.X]   both kinds, in place of the above on stores of task X
[search]    fields of SearchConfig
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from read_cache.errors import UserError
from read_cache.networks.config import ReadConfig
from read_cache.toml_file import read_toml
from read_cache.train.grid import NetworkConfig, TrainConfig
from read_cache.train.recipe import NETWORK, READ, RUN, RateRange, Recipe, SearchConfig

BUNDLED = Path(__file__).parent / "recipes"
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def load_recipe(name: str) -> Recipe:
    """The recipe of a TOML file, or a bundled one by name. Raises UserError for anything it cannot mean."""
    path = Path(name) if name.endswith(".toml") else BUNDLED / f"{name}.toml"
    bundled = sorted(file.stem for file in BUNDLED.glob("*.toml"))
    if not name.endswith(".toml") and name not in bundled:
        raise UserError(f"unknown recipe {name!r}; bundled: {', '.join(bundled)}; or give a TOML file")
    tables = read_toml(path, "recipe")
    with located(f"recipe {path}"):
        return parse_recipe(tables)


def parse_recipe(tables: dict[str, Any]) -> Recipe:
    """The recipe that tables of a TOML file say. Raises UserError with the table and the key."""
    check_keys(tables, ("network", "run", "tasks", "search"), "tables")
    values = read_options(tables.get("network", {}), NETWORK, "[network]")
    values |= read_options(tables.get("run", {}), RUN, "[run]")
    given = tables.get("tasks", {})
    check_table(given, "[tasks]")
    tasks = {task: read_options(given[task], NETWORK | RUN, f"[tasks.{task}]") for task in given}
    recipe = Recipe(values, tasks, read_search(tables.get("search", {})))
    recipe.plan("", "mean")
    for task in tasks:
        with located(f"[tasks.{task}]"):
            recipe.plan(task, "mean")
    return recipe


def read_options(table: Any, kinds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a table of options, each checked by itself."""
    check_table(table, where)
    check_keys(table, kinds, where)
    values: dict[str, Any] = {}
    for key, value in table.items():
        place = f"{where} {key}"
        if key in RUN:
            values[key] = read_value(value, kinds[key], place)
            with located(place):
                TrainConfig(**{key: value})
        elif key == "learning_rate" and isinstance(value, dict):
            values[key] = read_range(value, place)
        else:
            values[key] = read_choices(key, value, place)
    return values


def read_choices(key: str, value: Any, where: str) -> list[Any]:
    """A network option's values, from one or from a list."""
    values = [read_value(item, NETWORK[key], where) for item in (value if isinstance(value, list) else [value])]
    if not values:
        raise UserError(f"{where}: found an empty list, expected one value or more")
    for item in values:
        with located(where):
            ReadConfig(**{key: item}) if key in READ else NetworkConfig(ReadConfig(), **{key: item})
    return values


def read_range(table: dict[str, Any], where: str) -> RateRange:
    """Bounds of learning rates."""
    kinds = {field.name: field.type for field in dataclasses.fields(RateRange)}
    check_keys(table, kinds, where)
    if missing := [name for name in ("low", "high") if name not in table]:
        raise UserError(f"{where}: no {missing[0]}; expected low and high")
    with located(where):
        return RateRange(**{key: read_value(value, kinds[key], key) for key, value in table.items()})


def read_search(table: Any) -> SearchConfig:
    """The search table."""
    where = "[search]"
    check_table(table, where)
    kinds = {field.name: field.type for field in dataclasses.fields(SearchConfig)}
    check_keys(table, kinds, where)
    values = {
        key: read_value(value, kinds[key], f"{where} {key}") for key, value in table.items() if key != "final_seeds"
    }
    if "final_seeds" in table:
        values["final_seeds"] = tuple(read_choices("seed", table["final_seeds"], f"{where} final_seeds"))
    with located(where):
        search = SearchConfig(**values)
    only_study = [key for key in ("trials", "batch", "seed") if key in table]
    if search.method == "grid" and only_study:
        raise UserError(f'{where} {only_study[0]}: a grid has none; expected method = "optuna" beside it')
    return search


def read_value(value: Any, kind: Any, where: str) -> Any:
    """One value of a kind; the words a Literal allows are checked by the class that has it."""
    kind = kind if kind in WORDS else str
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
        raise UserError(f"{where}: found {value!r}, expected {WORDS[kind]}")
    return value


def check_table(value: Any, where: str) -> None:
    """UserError unless it is a table."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: found {value!r}, expected a table")


def check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """UserError for a key that means nothing."""
    if unknown := [key for key in table if key not in known]:
        raise UserError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(known)}")


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Errors say where the value stands."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
