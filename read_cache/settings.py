"""Base classes for settings and records: typed, checked once, frozen.

`Settings` hold what a user chooses: an unknown name is an error. `Record`s are read back from files: names that a later
version added are ignored, and missing ones take their default. Both raise UserError, never pydantic's own error.
"""

from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from read_cache.errors import UserError

M = TypeVar("M", bound=BaseModel)


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
            sentences.append(f"unknown setting {name!r}; known: {', '.join(model.model_fields)}")
        elif problem["type"] == "missing":
            missing.append(name)
        else:
            message = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            sentences.append(f"{name} is {problem['input']!r}, expected {message[:1].lower()}{message[1:]}")
    if missing:
        sentences.append(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return "; ".join(dict.fromkeys(sentences))
