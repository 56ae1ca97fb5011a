"""Shuffling inside windows of parts is as good as shuffling everything: shown by statistics and by training curves."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_cache.config import RunConfig
from read_cache.data import BUNDLED_BACKBONE
from read_cache.data.samples import sample_folder
from read_cache.loader import batches as batches_module
from read_cache.loader.order import epoch_batches, store_batches
from support.stores import make_store
from support.training import network, train_store

EXAMPLES, PARTS, BATCH, WINDOW = 6000, 40, 32, 4


def full_shuffle(
    part_start: np.ndarray, length: np.ndarray, batch_size: int, window: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """What the windows are measured against: one permutation of everything, cut into batches."""
    order = np.random.default_rng((seed, epoch)).permutation(len(length))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def epochs(order, length: np.ndarray, count: int) -> list[list[np.ndarray]]:
    """Batches of example numbers over some epochs of a store of equal parts."""
    part_start = np.linspace(0, EXAMPLES, PARTS + 1).astype(np.int64)
    return [order(part_start, length, BATCH, WINDOW, seed=3, epoch=epoch) for epoch in range(count)]


def positive_shares(batches: list[np.ndarray], label: np.ndarray) -> np.ndarray:
    """The share of label 1 in each full batch."""
    return np.array([label[batch].mean() for batch in batches if len(batch) == BATCH])


def partners(found: list[list[np.ndarray]]) -> float:
    """How many different examples an example has shared a batch with, on average."""
    together = np.zeros((EXAMPLES, EXAMPLES), dtype=bool)
    for batches in found:
        for batch in batches:
            together[np.ix_(batch, batch)] = True
    return float((together.sum(1) - 1).mean())


def test_batches_are_composed_as_those_of_a_full_shuffle() -> None:
    """Labels sorted in the source, lengths of two kinds: the label's share in a batch varies as it would by chance."""
    rng = np.random.default_rng(0)
    source = np.arange(EXAMPLES) < EXAMPLES * 0.4
    label = source[rng.permutation(EXAMPLES)]  # the store's own permutation, made once when it is planned
    length = rng.integers(10, 60, EXAMPLES)
    in_windows, full = (epochs(order, length, 5) for order in (epoch_batches, full_shuffle))
    spread, expected = (
        np.std([share for batches in found for share in positive_shares(batches, label)])
        for found in (in_windows, full)
    )
    assert spread == pytest.approx(expected, rel=0.1)
    unshuffled = [[np.arange(start, start + BATCH) for start in range(0, EXAMPLES - BATCH, BATCH)]]
    assert np.std(positive_shares(unshuffled[0], source)) > 3 * expected  # the statistic sees a bad order
    # Examples of like length meet more often than chance would have it, which saves padding: 126 partners, not 153.
    assert partners(in_windows) > 0.8 * partners(full)
    assert partners(unshuffled * 5) < 0.3 * partners(full)


layouts = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=30), min_size=1, max_size=25)


@given(layouts, st.integers(1, 40), st.integers(1, 6), st.integers(0, 9))
def test_an_epoch_is_a_permutation_in_full_batches_of_two_windows_at_most(parts, batch_size, window, seed) -> None:
    start = np.cumsum([0, *map(len, parts)])
    length = np.concatenate(parts)
    batches = epoch_batches(start, length, batch_size, window, seed, epoch=2)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(length)))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    first, last = {}, {}
    for number, batch in enumerate(batches):
        for part in part_of[batch].tolist():
            first.setdefault(part, number)
            last[part] = number
    if min(map(len, parts)) * window >= batch_size:  # else the examples left over gather over several windows
        in_use = [sum(first[p] <= number <= last[p] for p in first) for number in range(len(batches))]
        assert max(in_use) <= 2 * window


@given(st.integers(1, 50), st.integers(1, 9))
def test_in_the_order_of_the_store_every_example_comes_once(examples, batch_size) -> None:
    batches = store_batches(examples, batch_size)
    assert np.concatenate(batches).tolist() == list(range(examples))
    assert len(batches) == -(-examples // batch_size)
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_an_order_depends_on_seed_and_epoch_alone() -> None:
    start, length = np.array([0, 9, 20, 31]), np.arange(31) % 7 + 1
    orders = {
        (seed, epoch): tuple(np.concatenate(epoch_batches(start, length, 4, 2, seed, epoch)).tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    again = np.concatenate(epoch_batches(start, length, 4, 2, seed=1, epoch=0))
    assert tuple(again.tolist()) == orders[1, 0]


@pytest.mark.slow
def test_training_curves_are_those_of_a_full_shuffle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample sentiment with its rows sorted by label, 12 parts, windows of 4; five RNN-64, each in an order of its own.

    Orders differ among each other about as much as first weights do, so both are drawn.
    """
    rows = tmp_path / "rows"
    rows.mkdir()
    for split in ("train", "validation", "test"):
        lines = gzip.decompress((sample_folder("sample-sentiment") / f"{split}.jsonl.gz").read_bytes()).splitlines()
        lines.sort(key=lambda line: json.loads(line)["label"])
        (rows / f"{split}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    store = make_store(tmp_path / "s", BUNDLED_BACKBONE, "sample-sentiment", rows, part_tokens=6000, batch_tokens=4096)
    assert store.manifest.splits["train"].parts >= 10
    seeds = range(5)
    curves = {}
    for name, order in (("windows", epoch_batches), ("full", full_shuffle)):
        monkeypatch.setattr(batches_module, "epoch_batches", order)
        histories = []
        for seed in seeds:
            chosen = network("read", learning_rate=2e-3, seed=seed, cell="rnn", hidden=64)
            run = RunConfig(epochs=6, patience=6, order_seed=seed)
            histories.append(train_store(store.folder.path, tmp_path / f"{name}{seed}", [chosen], run)[0].history)
        curves[name] = np.array([[entry.train_loss for entry in history] for history in histories])
    difference = curves["windows"].mean(0) - curves["full"].mean(0)
    noise = np.sqrt((curves["windows"].var(0, ddof=1) + curves["full"].var(0, ddof=1)) / len(seeds))
    print(
        f"mean train loss by epoch, windows {curves['windows'].mean(0)}, full {curves['full'].mean(0)}, noise {noise}"
    )
    assert curves["full"].mean(0)[-1] < 0.9 * curves["full"].mean(0)[0]
    assert (np.abs(difference) < 3 * noise + 0.01).all()
