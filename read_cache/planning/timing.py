"""Times of a few batches, and what one of each thing in them costs."""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import nnls

REPEATS = 5
ENOUGH_SECONDS = 3.0
"""No more repeats of what has taken this long."""


def clock(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_seconds(work: Callable[[], object]) -> float:
    """The middle of a few repeats, after one that is not counted."""
    work()
    taken: list[float] = []
    while len(taken) < REPEATS and sum(taken) < ENOUGH_SECONDS:
        taken.append(clock(work))
    return statistics.median(taken)


def fit(features: np.ndarray, seconds: Sequence[float]) -> list[float]:
    """What one of each feature costs, in seconds, 0 or more; the sum of squared relative errors is least.

    features: [measured batches, features].
    """
    measured = np.array(seconds)[:, None]
    return nnls(features / measured, np.ones(len(measured)))[0].tolist()
