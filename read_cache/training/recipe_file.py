"""A recipe's TOML file.

[network]   settings of networks; a list of values makes a grid
[run]       settings of the run
[tasks.X]   settings of both kinds that replace those above on stores of task X
[search]    how to search
"""

from pathlib import Path
from typing import Any

from read_cache.config import RunConfig, SearchConfig
from read_cache.errors import UserError
from read_cache.settings import parse
from read_cache.toml_file import read_toml
from read_cache.training.recipe import Kinds, Recipe, check_table, check_value, read_table, side_networks

BUNDLED = Path(__file__).parent / "recipes"
TABLES = ("network", "run", "tasks", "search")


def load_recipe(name: str, kinds: Kinds | None = None) -> Recipe:
    """Return the recipe of a TOML file, or a bundled one by name. Raises UserError for whatever is wrong in it."""
    path = Path(name) if name.endswith(".toml") else BUNDLED / f"{name}.toml"
    bundled = sorted(file.stem for file in BUNDLED.glob("*.toml"))
    if not name.endswith(".toml") and name not in bundled:
        raise UserError(f"unknown recipe {name!r}; bundled: {', '.join(bundled)}; or give a TOML file")
    tables = read_toml(path, "recipe")
    try:
        return parse_recipe(tables, kinds or side_networks(), strict_tasks=path.parent != BUNDLED)
    except UserError as error:
        raise UserError(f"recipe {path}: {error}") from error


def parse_recipe(tables: dict[str, Any], kinds: Kinds, strict_tasks: bool) -> Recipe:
    """Return the recipe that the tables of a TOML file contain. Raises UserError with the table and the setting."""
    check_names(tables, TABLES, "the file")
    network, run = check_table(tables.get("network", {}), "[network]"), check_table(tables.get("run", {}), "[run]")
    check_names(run, RunConfig.model_fields, "[run]")
    if misplaced := [name for name in network if name in RunConfig.model_fields]:
        raise UserError(f"[network]: {misplaced[0]} is a setting of [run]")
    values = read_table(network, kinds, "[network]") | read_table(run, kinds, "[run]")
    given = check_table(tables.get("tasks", {}), "[tasks]")
    tasks = {task: read_table(given[task], kinds, f"[tasks.{task}]") for task in given}
    recipe = Recipe(values, tasks, read_search(tables.get("search", {})), kinds, strict_tasks)
    recipe.sweep("")
    for task in tasks:
        try:
            recipe.sweep(task)
        except UserError as error:
            raise UserError(f"[tasks.{task}]: {error}") from error
    return recipe


def read_search(table: Any) -> SearchConfig:
    """Return the settings of the table [search]. Raises UserError."""
    where = "[search]"
    check_names(check_table(table, where), SearchConfig.model_fields, where)
    for name, value in table.items():
        check_value(SearchConfig, name, value, f"{where} {name}")
    search = parse(SearchConfig, table, where)
    studied = [name for name in ("trials", "batch", "seed") if name in table]
    if search.method == "grid" and studied:
        raise UserError(f'{where} {studied[0]}: a grid has no such setting, expected method = "optuna" beside it')
    return search


def check_names(table: Any, known: Any, where: str) -> None:
    """Raise UserError for an unknown name."""
    if unknown := [name for name in table if name not in known]:
        raise UserError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
