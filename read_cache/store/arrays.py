"""The zarr groups of a store, and its small arrays, which zarr reads at once."""

from typing import TypeVar

import numpy as np
import zarr

from read_cache.errors import StoreError
from read_cache.store.folder import StoreFolder

Member = TypeVar("Member", zarr.Array, zarr.Group)
UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""Errors that zarr raises for its own files that are absent or damaged."""
CORRUPT = "The store is corrupt: read-cache verify lists every bad chunk"


def open_root(folder: StoreFolder) -> zarr.Group:
    """Return the group of all arrays. Raises StoreError if it cannot be opened."""
    where = f"{folder.path}/{StoreFolder.ARRAYS}"
    try:
        return folder.files.group(StoreFolder.ARRAYS)
    except UNREADABLE as error:
        raise StoreError(f"{where} cannot be opened: {error}; remove the store and extract it again") from error


def open_member(folder: StoreFolder, group: zarr.Group, name: str, kind: type[Member]) -> Member:
    """Return an array or group in `group`. Raises StoreError if it is absent or damaged."""
    where = f"{group.path}/{name}".lstrip("/")
    try:
        with folder.files.reaching(f"{StoreFolder.ARRAYS}/{where}"):
            member = group.get(name)
    except UNREADABLE as error:
        raise StoreError(f"{where} cannot be opened: {error}; remove the store and extract it again") from error
    if not isinstance(member, kind):
        raise StoreError(f"{where} is missing from the store; remove the store and extract it again")
    return member


def read_small(folder: StoreFolder, group: zarr.Group, name: str) -> np.ndarray:
    """Return a small array in `group`. Raises StoreError if it is missing or corrupt."""
    where, array = f"{group.path}/{name}".lstrip("/"), open_member(folder, group, name, zarr.Array)
    try:
        with folder.files.reaching(f"{StoreFolder.ARRAYS}/{where}"):
            if array.nchunks_initialized == array.nchunks:  # zarr reads a missing chunk as zeros
                return np.asarray(array[...])
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(f"{where} cannot be read: {str(error).rstrip('.')}. {CORRUPT}") from error
    raise StoreError(f"{where} has missing chunks. {CORRUPT}")
