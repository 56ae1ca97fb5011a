"""A store's folder and its states.

absent   no plan.json, no manifest.json
begun    plan.json: the store's plan is fixed, and another plan is refused here
planned  arrays.zarr/zarr.json too, the last file written before the first part: parts may be missing
sealed   manifest.json: the plan under its last name; its existence means the store is complete
"""

import json
from pathlib import Path

from read_cache.errors import StoreError
from read_cache.store.copies import CopiedFiles
from read_cache.store.files import Files, LocalFiles, is_remote, leftover, open_files
from read_cache.store.manifest import Manifest, differences

ACTIVATIONS_DIGEST = "activations_digest"
"""Name of the attribute of the arrays' root group that holds the digest of its activations."""


def side_init_file(kind: str, reduction: int) -> str:
    """Return the name of a store's file of first weights for side networks, pruned from the backbone."""
    return f"side_init-{kind}-{reduction}.safetensors"


class StoreFolder:
    """The folder of a store, or a URL that fsspec opens."""

    PLAN, MANIFEST, ARRAYS = "plan.json", "manifest.json", "arrays.zarr"
    ROOT = f"{ARRAYS}/zarr.json"

    def __init__(self, path: str | Path) -> None:
        """Raise StoreError for an empty path, which would mean the working directory."""
        if not str(path):
            raise StoreError("the path of a store is empty: give a folder or a URL")
        path = str(path).removeprefix("file://")
        self.path = str(path).rstrip("/") if is_remote(path) else str(Path(path))
        self.files: Files = open_files(path)

    def keep_copies(self, limit: float) -> None:
        """From now on, keep copies of the parts that are read from a URL, within `limit` bytes; 0 keeps none."""
        if is_remote(self.path):
            self.files = CopiedFiles(self.path, limit) if limit else open_files(self.path)

    @property
    def sealed(self) -> bool:
        """Return True if the store is complete."""
        return self.files.exists(self.MANIFEST)

    @property
    def begun(self) -> bool:
        """Return True if the store was begun, planned or not, and is not complete."""
        return not self.sealed and self.files.exists(self.PLAN)

    @property
    def planned(self) -> bool:
        """Return True if parts of the store can be written and it is not complete."""
        return self.begun and self.files.exists(self.ROOT)

    def read_manifest(self) -> Manifest:
        """Return the manifest of a sealed store.

        Raises StoreError if there is none, if it is not complete, or if the manifest is not that of the arrays.
        """
        if self.sealed:
            manifest = Manifest.parse(self._read(self.MANIFEST), f"{self.path}/{self.MANIFEST}")
            try:
                digest = json.loads(self._read(self.ROOT))["attributes"][ACTIVATIONS_DIGEST]
            except (ValueError, KeyError, TypeError, RecursionError):
                digest = None
            if digest != manifest.activations_digest:
                raise StoreError(
                    f"{self.path}/{self.MANIFEST} does not belong to the arrays beside it: it was changed, or comes "
                    "from another store. Restore it, or remove the folder and extract the store again"
                )
            return manifest
        if plan := self.read_plan():
            raise StoreError(
                f"store {self.path} is not complete: its extraction, of {plan.provenance.model} on {plan.task.name}, "
                "was interrupted. Run its extract command again to finish it; push a copy again"
            )
        raise StoreError(f"no store at {self.path}: make one with read-cache extract")

    def read_plan(self) -> Manifest | None:
        """Return the manifest of a store that was begun, or None."""
        if not self.files.exists(self.PLAN):
            return None
        return Manifest.parse(self._read(self.PLAN), f"{self.path}/{self.PLAN}")

    def _read(self, name: str) -> bytes:
        try:
            return self.files.read(name)
        except OSError as error:
            raise StoreError(f"{self.path}/{name} cannot be read: {error.strerror or error}") from error

    def begin(self, manifest: Manifest) -> Manifest:
        """Write the plan of a new store; return the plan that the folder then holds, which may be another worker's.

        Raises StoreError if a store with other settings was begun here, or if something else is in the folder.
        """
        if not (self.begun or self.sealed) and (found := self._content()):
            raise StoreError(
                f"{self.path} exists and is no store: it has {', '.join(found[:3])}, but neither {self.PLAN} nor "
                f"{self.MANIFEST}. Choose another store, or an empty folder"
            )
        self.files.settle(self.PLAN, manifest.text)
        if self.sealed:
            self.files.remove(self.PLAN)
            raise StoreError(f"another extraction has just completed {self.path}: run the same command again")
        held = self.read_plan() or manifest
        if differences(held, manifest):
            raise StoreError(
                f"another extraction with other settings or rows has just begun {self.path}: choose another store"
            )
        return held

    def _content(self) -> list[str]:
        """Return what is in the folder, without what a killed extraction may leave; behind a URL, only the arrays."""
        if isinstance(self.files, LocalFiles):
            root = self.files.root
            return sorted(path.name for path in root.iterdir() if not leftover(path)) if root.is_dir() else []
        return [self.ARRAYS] if self.files.sizes(self.ARRAYS) else []


def find_stores(path: str | Path) -> tuple[list[StoreFolder], list[StoreFolder]]:
    """Return (the sealed stores, those that were begun and are not complete) at or below a path, sorted.

    Raises StoreError if there is neither.
    """
    folder = StoreFolder(path)
    if folder.sealed or folder.begun:  # a store contains no other store, and may hold thousands of files
        return ([folder], []) if folder.sealed else ([], [folder])
    sealed, begun = (
        [StoreFolder(f"{folder.path}/{name}") for name in folder.files.find(file)]
        for file in (folder.MANIFEST, folder.PLAN)
    )
    unfinished = [store for store in begun if store.begun]
    if not sealed and not unfinished:
        if not folder.files.exists(""):
            folder.read_manifest()
        raise StoreError(f"no finished store in {path}: make one with read-cache extract")
    return sealed, unfinished
