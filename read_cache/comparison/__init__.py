"""Side networks and live methods in one table, on the rows of one store: `read_cache.compare`."""

from read_cache.comparison.run import compare
from read_cache.comparison.table import Comparison

__all__ = ["Comparison", "compare"]
