"""Training, validation and test rows: the protocol of Compacter and HyperFormer, which the READ paper follows.

The permutation is that of `seq2seq/data/tasks.py` in rabeehk/compacter.
"""

import torch

from read_cache.errors import UserError
from read_cache.extraction.rows import Rows
from read_cache.tasks import Protocol

PROTOCOL_SEED = 42
HELD_OUT_ROWS = 1_000


def protocol_splits(source: dict[str, Rows], protocol: Protocol) -> dict[str, Rows]:
    """Return train, validation and, if there is one, test rows. Raises UserError for a split that is absent or empty.

    halve_validation (CoLA, MRPC, RTE, STS-B, WNLI): the permuted validation rows' first half validates, the rest tests.
    hold_out_of_train (QQP, QNLI, SST-2): the first 1,000 permuted training rows validate; validation rows test.
    mnli: mismatched rows validate, matched rows test. as_given: the source's own splits.
    """

    def take(name: str) -> Rows:
        if name not in source:
            raise UserError(f"the dataset has no {name} split: {sizes}")
        return source[name]

    sizes = "found " + (", ".join(f"{name} ({len(rows)} rows)" for name, rows in source.items()) or "no splits")
    test: Rows | None
    train = take("train")
    if protocol == "halve_validation":
        rows = _permuted(take("validation"))
        validation, test = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    elif protocol == "hold_out_of_train":
        rows, test = _permuted(train), take("validation")
        validation, train = rows[:HELD_OUT_ROWS], rows[HELD_OUT_ROWS:]
    elif protocol == "mnli":
        validation, test = take("validation_mismatched"), take("validation_matched")
    else:
        validation, test = take("validation"), source.get("test")
    splits = {"train": train, "validation": validation} | ({} if test is None else {"test": test})
    for name, rows in splits.items():
        if not rows:
            raise UserError(f"the {name} split is empty under protocol {protocol}: {sizes}")
    return splits


def _permuted(rows: Rows) -> Rows:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(PROTOCOL_SEED))
    return [rows[i] for i in order.tolist()]
