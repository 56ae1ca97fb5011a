"""Where work units run: a part of an extraction, or a group of networks that train together.

To add an engine, subclass `Engine` and put it into `ENGINES`.
"""

from read_cache.engines.base import Engine
from read_cache.engines.local import LocalEngine
from read_cache.errors import UserError

ENGINES: dict[str, type[Engine]] = {"local": LocalEngine}
"""Engines by name, as the setting `engine` has it."""


def open_engine(name: str) -> Engine:
    """Return an engine by name. Raises UserError for an unknown one."""
    if name not in ENGINES:
        raise UserError(f"engine is {name!r}, expected one of {', '.join(ENGINES)}")
    return ENGINES[name]()
