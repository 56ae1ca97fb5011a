"""Base classes for settings and records: typed, checked once, frozen.

`Settings` hold what a user chooses: an unknown name is an error. `Record`s are read back from files: names that a later
version added are ignored, and missing ones take their default. Both raise UserError, never pydantic's own error.
"""

import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from read_cache.errors import UserError

M = TypeVar("M", bound=BaseModel)
Fields = Mapping[str, Sequence[FieldInfo]]
"""Fields by the name of a setting; several classes may have one of the same name."""


class Checked(BaseModel):
    """A frozen model whose errors are UserErrors."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        """Check and take the values. Raises UserError that names each wrong value."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(explain(type(self), error)) from error

    def replaced(self, **changes: Any) -> Self:
        """Return a checked copy with some values changed. Raises UserError."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def values(self) -> dict[str, Any]:
        """Return all values as JSON types."""
        return self.model_dump(mode="json")


class Settings(Checked):
    """Values that a user chooses. Field docstrings are the help texts of options."""

    model_config = ConfigDict(extra="forbid")


class Record(Checked):
    """Values read back from a file."""

    model_config = ConfigDict(extra="ignore")


def parse(model: type[M], values: Any, where: str) -> M:
    """Return a model made of a mapping. Raises UserError that names `where` the values come from."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: found {values!r}, expected a table of names and values")
    try:
        return model(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """Return one sentence for each wrong value: its name, what was found and what was expected."""
    sentences, missing = [], []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"]) or model.__name__
        if problem["type"] == "extra_forbidden":
            sentences.append(unknown_setting(name, model.model_fields))
        elif problem["type"] == "missing":
            missing.append(name)
        else:
            sentences.append(f"{name} is {problem['input']!r}, expected {expected(problem['msg'])}")
    if missing:
        sentences.append(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return "; ".join(dict.fromkeys(sentences))


def expected(message: str) -> str:
    """Return a message of pydantic as the end of a sentence."""
    message = message.removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def unknown_setting(name: str, known: Collection[str]) -> str:
    """Return the message for a name that no setting has."""
    return f"unknown setting {name!r}; known: {', '.join(known)}"


def fields_of(*models: type[BaseModel]) -> dict[str, list[FieldInfo]]:
    """Return the fields of some classes by name."""
    fields: dict[str, list[FieldInfo]] = {}
    for model in models:
        for name, field in model.model_fields.items():
            fields.setdefault(name, []).append(field)
    return fields


def check_value(name: str, value: Any, fields: Fields, where: str, text: bool = False) -> Any:
    """Return a setting's value, if one of its fields takes it. Raises UserError, also for an unknown name.

    `text` takes "8" for 8; otherwise types must match. Arrays and ranges are taken for lists.
    """
    if name not in fields:
        raise UserError(f"{where}: {unknown_setting(name, fields)}")
    message = ""
    for field in fields[name]:
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
        try:
            if text:
                return adapter.validate_python(value)
            return adapter.validate_json(json.dumps(value, default=plain), strict=True)  # JSON: a list may be a tuple
        except ValidationError as error:
            message = expected(error.errors()[0]["msg"])
        except TypeError:
            message = "a number, a text, true or false"
    raise UserError(f"{where} {name}: found {value!r}, expected {message}")


def plain(value: Any) -> Any:
    """Return a range as a list, and a value of numpy as one of Python. Raises TypeError for other types."""
    return value.tolist() if hasattr(value, "tolist") else list(value)


def read_settings(values: Mapping[str, Any], *models: type[BaseModel]) -> tuple[Any, ...]:
    """Return one object of each class from the settings that it has. Raises UserError."""
    fields = fields_of(*models)
    checked = {name: check_value(name, value, fields, "settings") for name, value in values.items()}
    return tuple(model(**{name: checked[name] for name in model.model_fields if name in checked}) for model in models)


def split_texts(texts: Sequence[str]) -> dict[str, str]:
    """Return the settings in texts such as `hidden=8,16`. Raises UserError for one without `=` or a repeated name."""
    settings: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise UserError(f"found the setting {text!r}, expected NAME=VALUE or NAME=VALUE,VALUE")
        if name in settings:
            raise UserError(f"found the setting {name!r} twice, expected it once: a grid is {name}=VALUE,VALUE")
        settings[name] = value
    return settings


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the tables of a file. Raises UserError, which names the file as `what`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} is not valid TOML: {error}") from error
