"""Engines run work units: a part of an extraction, or a group of networks that train together.

To add an engine, subclass `Engine` and put it into `ENGINES`.
"""

from read_cache.engines.base import ENGINES, Engine, LocalEngine, open_engine

__all__ = ["ENGINES", "Engine", "LocalEngine", "open_engine"]
