"""GLUE where its rows are not at hand: how many rows each file has, and how long they are by T5's vocabulary.

Rows are those of the published dataset. Lengths are quantiles of the encoded sources, eos included and before any
cut, measured with T5's own vocabulary over the rows that are named, in this project's templates.
"""

import dataclasses
from statistics import NormalDist

import numpy as np

from read_cache.extract.splits import protocol_splits
from read_cache.tasks import Task

PERCENTILES = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)
MEASURED, PARTLY, GUESSED = "measured on every row", "measured on part of the rows", "guessed"


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a task."""

    rows: int
    quantiles: tuple[float, ...]
    """Tokens at `PERCENTILES`."""
    how: str = MEASURED


def guessed(rows: int, mean: float, deviation: float) -> File:
    """Lengths of a log-normal kind: nothing was measured, as the rows could not be had."""
    spread = np.log(1 + (deviation / mean) ** 2)
    shares = np.clip(np.array(PERCENTILES) / 100, 0.001, 0.999)
    normal = [NormalDist().inv_cdf(share) for share in shares]
    return File(rows, tuple(np.exp(np.log(mean) - spread / 2 + spread**0.5 * np.array(normal)).tolist()), GUESSED)


GLUE_FILES: dict[str, dict[str, File]] = {
    "cola": {
        "train": File(8_551, (7, 9, 10, 11, 12, 13, 13, 14, 15, 17, 18, 21, 25, 30, 51)),
        "validation": File(1_043, (8, 9, 10, 11, 12, 13, 13, 14, 15, 17, 19, 22, 26, 36, 42)),
    },
    "sst2": {
        "train": File(67_349, (9, 9, 10, 11, 12, 14, 16, 18, 21, 25, 30, 39, 47, 61, 90)),
        "validation": File(872, (11, 15, 18, 20, 25, 29, 32, 36, 39, 43, 48, 55, 61, 68, 84)),
    },
    "mrpc": {
        "train": File(3_668, (28, 37, 44, 47, 53, 58, 62, 66, 71, 74, 79, 85, 90, 101, 127)),
        "validation": File(408, (34, 39, 43, 47, 53, 57, 62, 66, 71, 75, 80, 85, 91, 97, 107)),
    },
    "stsb": {
        "train": File(5_749, (20, 23, 26, 27, 29, 31, 33, 35, 38, 41, 48, 65, 76, 94, 157)),
        "validation": File(1_500, (21, 23, 26, 28, 30, 33, 35, 40, 45, 50, 56, 64, 74, 85, 107)),
    },
    "mnli": {
        "train": File(392_702, (14, 19, 24, 28, 33, 38, 43, 48, 53, 59, 66, 77, 88, 117, 311), PARTLY),  # 15,891
        "validation_matched": File(9_815, (15, 19, 23, 27, 32, 37, 42, 46, 51, 58, 65, 77, 87, 117, 271)),
        "validation_mismatched": File(9_832, (15, 19, 24, 28, 34, 39, 43, 48, 53, 58, 65, 76, 87, 117, 267)),
    },
    "qnli": {
        "train": File(104_743, (26, 30, 37, 40, 45, 50, 54, 58, 62, 67, 73, 82, 88, 102, 138), PARTLY),  # 2,000
        "validation": File(5_463, (22, 31, 36, 40, 46, 51, 55, 59, 64, 70, 77, 90, 103, 135, 310)),
    },
    "qqp": {"train": guessed(363_846, 39, 15), "validation": guessed(40_430, 39, 15)},
    "rte": {"train": guessed(2_490, 85, 50), "validation": guessed(277, 85, 50)},
    "wnli": {"train": guessed(635, 42, 14), "validation": guessed(71, 42, 14)},
}
TRIE_NODES = {"stsb": (2, 1.91)}
"""Nodes of the label trie by T5's vocabulary, of an evaluation row and, on average, of a training row; else one."""


def estimated_lengths(task: Task) -> dict[str, np.ndarray]:
    """Tokens of every row of every split of a GLUE task by T5's vocabulary, [examples] float: no row is read."""
    rng = np.random.default_rng(0)
    files = {}
    for name, file in GLUE_FILES[task.name].items():
        shares = 100 * (np.arange(file.rows) + 0.5) / file.rows
        files[name] = rng.permutation(np.interp(shares, PERCENTILES, file.quantiles)).tolist()
    splits = protocol_splits(files, task.protocol)  # it picks rows by their number alone
    return {name: np.array(lengths) for name, lengths in splits.items()}


def how_estimated(task: Task) -> str:
    """What the lengths of a task rest on, in words."""
    files = GLUE_FILES[task.name]
    return f"published numbers of rows; lengths {', '.join(f'{file.how} ({name})' for name, file in files.items())}"
