"""Engines run work units: a part of an extraction, or a group of networks that train together.

To add an engine, subclass `Engine` and put it into `ENGINES`.
"""

from read_cache.config import Work
from read_cache.engines.base import Engine, LocalEngine
from read_cache.engines.ray import RayEngine
from read_cache.errors import UserError

ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "ray": RayEngine}
"""Engines by name, as the setting `engine` has it."""


def open_engine(settings: Work) -> Engine:
    """Return the engine that the settings name. Raises UserError for an unknown one."""
    if settings.engine not in ENGINES:
        raise UserError(f"engine is {settings.engine!r}, expected one of {', '.join(ENGINES)}")
    return ENGINES[settings.engine](settings)


__all__ = ["ENGINES", "Engine", "LocalEngine", "RayEngine", "open_engine"]
