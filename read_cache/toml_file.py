"""TOML that a user wrote."""

import tomllib
from pathlib import Path
from typing import Any

from read_cache.errors import UserError


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a file. Raises UserError, which calls it `what`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} is not valid TOML: {error}") from error
