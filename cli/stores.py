"""Stores as the commands are given them: one by one, or by the folder."""

from collections.abc import Iterable

from read_cache.cli.output import say
from read_cache.store.manifest import StoreFolder, find_stores, find_unfinished


def all_stores(paths: Iterable[str]) -> list[StoreFolder]:
    """Every sealed store at or below the paths, each once; says which are left out as unfinished. Raises StoreError."""
    found: dict[str, StoreFolder] = {}
    for path in paths:
        found |= {folder.path: folder for folder in find_stores(path)}
        for folder in find_unfinished(path):
            say(
                f"{folder.path} is left out: its extraction has not ended; read-cache inspect {folder.path} says how to"
            )
    return list(found.values())
