"""Options made from the settings classes: help text, default and check stand there, once."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from read_cache.settings import check_value, fields_of, split_texts

SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; may be repeated. See `settings`."),
]


def option(model: type[BaseModel], name: str, *flags: str, default: str | None = None, repeat: bool = False) -> Any:
    """Return the typer option of a setting, which is not given unless it stands on the command line."""
    field = model.model_fields[name]
    shown = default if default is not None else field.default
    help_text = " ".join((field.description or "").split()) + (" May be repeated for a grid." if repeat else "")
    return typer.Option(*flags, help=help_text, show_default="" if shown is None else str(shown).lower())


def given(**values: Any) -> dict[str, Any]:
    """Return the settings that stand on the command line, by name; a list of one value as that value."""
    settings = {}
    for name, value in values.items():
        if value is None or value == []:
            continue
        settings[name] = value[0] if isinstance(value, list) and len(value) == 1 else value
    return settings


def parse_set(texts: Sequence[str], models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Return the values of `--set` options, each checked. Raises UserError for a setting that no model has."""
    fields, texts_by_name = fields_of(*models), split_texts(texts)
    return {name: check_value(name, value, fields, "settings", text=True) for name, value in texts_by_name.items()}


def setting_rows(models: Mapping[str, type[BaseModel]]) -> list[tuple[str, str, str, str]]:
    """Return (owner, name, default, help) of every setting of some classes."""
    rows = []
    for owner, model in models.items():
        for name, field in model.model_fields.items():
            default = "" if field.is_required() or field.default is None else str(field.default).lower()
            shown = f"head.{name}" if owner == "head" else name  # as --set and recipes take it
            rows.append((owner, shown, default, " ".join((field.description or "").split())))
    return rows
