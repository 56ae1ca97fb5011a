"""The order of an epoch: a pure function of (seed, epoch), whatever the threads, the memory or the machine."""

import numpy as np

SORTED_BATCHES = 16


def epoch_batches(
    part_start: np.ndarray, length: np.ndarray, batch_size: int, window: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Return every example once, shuffled, as batches of example numbers; only the last batch may be short.

    `part_start` [parts + 1] and `length` [examples] are the store's. Parts are shuffled and taken in windows of
    `window`, so that no more than two windows of parts are in use at once. Within a window examples are shuffled, then
    sorted by length in runs of `SORTED_BATCHES` batches, so that a batch holds examples of like length and little
    padding, then the batches are shuffled. Examples that do not fill a batch open the next window.
    """
    rng = np.random.default_rng((seed, epoch))
    parts = rng.permutation(len(part_start) - 1)
    left_over, batches = np.zeros(0, dtype=np.int64), []
    for start in range(0, len(parts), window):
        examples = [np.arange(part_start[part], part_start[part + 1]) for part in parts[start : start + window]]
        order = rng.permutation(np.concatenate(examples))
        first, order = order[: -len(left_over) % batch_size], order[-len(left_over) % batch_size :]
        opening = np.concatenate([left_over, first])
        run = SORTED_BATCHES * batch_size
        runs = [order[begin : begin + run] for begin in range(0, len(order), run)]
        in_length = np.concatenate([run[np.argsort(length[run], kind="stable")] for run in runs] or [order])
        cut = [in_length[begin : begin + batch_size] for begin in range(0, len(in_length), batch_size)]
        left_over = cut.pop() if cut and len(cut[-1]) < batch_size else np.zeros(0, dtype=np.int64)
        if len(opening) == batch_size:
            batches.append(opening)
        else:  # too few examples in this window to fill the batch that the last one began
            left_over = np.concatenate([opening, left_over])
        batches += [cut[place] for place in rng.permutation(len(cut))]
    return [*batches, left_over] if len(left_over) else batches


def store_batches(examples: int, batch_size: int) -> list[np.ndarray]:
    """Return every example once, in the order of the store, as batches of example numbers."""
    return [np.arange(start, min(start + batch_size, examples)) for start in range(0, examples, batch_size)]
