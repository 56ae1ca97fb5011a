"""Side networks and live methods side by side, on one store's rows: `read_cache.compare`."""

from read_cache.comparison.run import compare
from read_cache.comparison.table import Comparison

__all__ = ["Comparison", "compare"]
