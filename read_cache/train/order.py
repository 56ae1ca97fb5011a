"""The order of an epoch: a pure function of (seed, epoch), whatever the threads, the memory or the machine."""

import numpy as np


def epoch_windows(parts: int, window: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The parts of an epoch, shuffled, in windows of `window`: examples mix within a window."""
    order = np.random.default_rng((seed, epoch)).permutation(parts)
    return [order[start : start + window] for start in range(0, parts, window)]


def window_order(examples: int, seed: int, epoch: int, window: int) -> np.ndarray:
    """The order of a window's examples."""
    return np.random.default_rng((seed, epoch, window)).permutation(examples)
