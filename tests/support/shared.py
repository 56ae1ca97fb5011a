"""Where rows and texts that are never committed are; tests that use them skip where they are absent."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("READ_CACHE_SHARED", Path(__file__).parents[3] / "shared"))
