"""Where files are kept that can be made again."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return the user's folder for one kind of such files: below XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "read-cache" / kind
