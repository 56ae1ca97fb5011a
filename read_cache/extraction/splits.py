"""Which rows train, validate and test: the protocol of Compacter and HyperFormer, which the READ paper follows.

The permutation is `torch.randperm` with a generator seeded 42, as in `seq2seq/data/tasks.py` of rabeehk/compacter.
"""

import torch

from read_cache.errors import UserError
from read_cache.extraction.rows import Rows
from read_cache.tasks import Protocol

PROTOCOL_SEED = 42
HELD_OUT_ROWS = 1_000


def permutation(rows: int) -> list[int]:
    """The protocol's permutation of `rows` rows."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(PROTOCOL_SEED)).tolist()


def protocol_splits(source: dict[str, Rows], protocol: Protocol) -> dict[str, Rows]:
    """train, validation and (where there is one) test rows. UserError names a split that is absent or empty.

    halve_validation (CoLA, MRPC, RTE, STS-B, WNLI): the permuted validation rows' first half validates, the rest tests.
    hold_out_of_train (QQP, QNLI, SST-2): the first 1,000 permuted training rows validate; validation rows test.
    mnli: mismatched rows validate, matched rows test. as_given: the splits as they lie.
    """
    train = _take(source, "train")
    if protocol == "halve_validation":
        rows = _take(source, "validation")
        order = permutation(len(rows))
        half = len(rows) // 2
        splits = {
            "train": train,
            "validation": [rows[i] for i in order[:half]],
            "test": [rows[i] for i in order[half:]],
        }
    elif protocol == "hold_out_of_train":
        order = permutation(len(train))
        splits = {
            "train": [train[i] for i in order[HELD_OUT_ROWS:]],
            "validation": [train[i] for i in order[:HELD_OUT_ROWS]],
            "test": _take(source, "validation"),
        }
    elif protocol == "mnli":
        splits = {
            "train": train,
            "validation": _take(source, "validation_mismatched"),
            "test": _take(source, "validation_matched"),
        }
    else:
        splits = {"train": train, "validation": _take(source, "validation")}
        if "test" in source:
            splits["test"] = source["test"]
    for name, rows in splits.items():
        if not rows:
            raise UserError(f"the {name} split is empty under protocol {protocol}: {_sizes(source)}")
    return splits


def _take(source: dict[str, Rows], name: str) -> Rows:
    if name not in source:
        raise UserError(f"the dataset has no {name} split: {_sizes(source)}")
    return source[name]


def _sizes(source: dict[str, Rows]) -> str:
    return "found " + (", ".join(f"{name} ({len(rows)} rows)" for name, rows in source.items()) or "no splits")
