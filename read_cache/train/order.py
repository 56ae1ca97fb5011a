"""The order of an epoch: a pure function of (seed, epoch), whatever the threads, the memory or the machine."""

import numpy as np

SORTED_BATCHES = 16


def epoch_windows(parts: int, window: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The parts of an epoch, shuffled, in windows of `window`: examples mix within a window."""
    order = np.random.default_rng((seed, epoch)).permutation(parts)
    return [order[start : start + window] for start in range(0, parts, window)]


def window_batches(length: np.ndarray, batch_size: int, seed: int, epoch: int, window: int) -> list[np.ndarray]:
    """A window's examples as batches of places, in random order; `length` is [examples], in the window's order.

    Examples are shuffled, then sorted by length within runs of `SORTED_BATCHES` batches, so that a batch holds
    examples of like length and little padding; then the batches are shuffled.
    """
    rng = np.random.default_rng((seed, epoch, window))
    order = rng.permutation(len(length))
    run = SORTED_BATCHES * batch_size
    runs = [order[start : start + run] for start in range(0, len(order), run)]
    in_length = np.concatenate([run[np.argsort(length[run], kind="stable")] for run in runs])
    batches = [in_length[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[place] for place in rng.permutation(len(batches))]
