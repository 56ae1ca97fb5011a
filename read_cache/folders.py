"""The user's cache folder. Its files can be deleted: they are made again when they are needed."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of files, below XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "read-cache" / kind
