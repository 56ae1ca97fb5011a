"""Stores as the commands are given them: one by one, or by the folder."""

from collections.abc import Iterable

from read_cache.cli.output import say
from read_cache.errors import StoreError
from read_cache.store.manifest import StoreFolder, find_stores, find_unfinished


def all_stores(paths: Iterable[str]) -> list[StoreFolder]:
    """Every sealed store at or below the paths, each once; says which are left out as unfinished. Raises StoreError."""
    found: dict[str, StoreFolder] = {}
    for path in paths:
        unfinished = find_unfinished(path)
        for folder in unfinished:
            say(
                f"{folder.path} is left out: its extraction has not ended; read-cache inspect {folder.path} says how to"
            )
        try:
            found |= {folder.path: folder for folder in find_stores(path)}
        except StoreError as error:
            if not unfinished or unfinished[0].path == StoreFolder(path).path:
                raise
            raise StoreError(f"no store in {path} is finished: go on with those that were begun") from error
    return list(found.values())
