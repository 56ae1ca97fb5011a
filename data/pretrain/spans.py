"""T5's span corruption: 15% of the tokens, in spans of mean length 3, move from the source to the target."""

import numpy as np

NOISE_DENSITY = 0.15
MEAN_SPAN_LENGTH = 3.0


def span_counts(window: int) -> tuple[int, int]:
    """Corrupted tokens and spans in a window of `window` tokens."""
    corrupted = round(window * NOISE_DENSITY)
    return corrupted, max(1, round(corrupted / MEAN_SPAN_LENGTH))


def corrupt_spans(
    ids_BS: np.ndarray, rng: np.random.Generator, first_sentinel: int, eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of each window; every source has one length and every target has one length.

    ids_BS: [B, S] token ids. Sentinels count down from `first_sentinel`. Both results end in eos.
    """
    batch, window = ids_BS.shape
    corrupted, spans = span_counts(window)
    noise_lengths = _random_partition(rng, batch, corrupted, spans)
    kept_lengths = _random_partition(rng, batch, window - corrupted, spans)
    # A window is kept span, corrupted span, kept span, ...: mark where each span starts, then count.
    lengths = np.stack([kept_lengths, noise_lengths], axis=2).reshape(batch, 2 * spans)
    starts = np.concatenate([np.zeros((batch, 1), int), np.cumsum(lengths, axis=1)[:, :-1]], axis=1)
    is_start = np.zeros((batch, window), dtype=int)
    np.put_along_axis(is_start, starts, 1, axis=1)
    span_number = np.cumsum(is_start, axis=1) - 1
    is_noise = span_number % 2 == 1
    sentinel = first_sentinel - span_number // 2
    source = _replace_spans(ids_BS, is_noise, is_start == 1, sentinel, eos)
    target = _replace_spans(ids_BS, ~is_noise, is_start == 1, sentinel, eos)
    return source, target


def _replace_spans(
    ids: np.ndarray, dropped: np.ndarray, is_start: np.ndarray, sentinel: np.ndarray, eos: int
) -> np.ndarray:
    """Each dropped span becomes its sentinel; the rest stays; eos at the end."""
    keep = ~dropped | is_start
    values = np.where(dropped & is_start, sentinel, ids)
    rows = values[keep].reshape(len(ids), -1)
    return np.concatenate([rows, np.full((len(ids), 1), eos)], axis=1)


def _random_partition(rng: np.random.Generator, batch: int, total: int, parts: int) -> np.ndarray:
    """[batch, parts] positive integers that sum to `total` in each row, uniform over such rows."""
    cuts = rng.random((batch, total - 1)).argsort(axis=1)[:, : parts - 1] + 1
    edges = np.concatenate([np.zeros((batch, 1), int), np.sort(cuts, axis=1), np.full((batch, 1), total)], axis=1)
    return np.diff(edges, axis=1)
