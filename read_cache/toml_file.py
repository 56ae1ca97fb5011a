"""TOML files of users."""

import tomllib
from pathlib import Path
from typing import Any

from read_cache.errors import UserError


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the tables of a file. Raises UserError, which names the file as `what`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} is not valid TOML: {error}") from error
