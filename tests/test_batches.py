"""From parts to batches: held anywhere the same, in an order of the seed's, within the memory that is given."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from conftest import make_store
from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.order import epoch_batches
from read_cache.loader.statistics import channel_statistics
from read_cache.loader.tiers import SplitSize, assign_tiers
from read_cache.networks.config import ReadConfig
from read_cache.store.reader import StoreReader
from read_cache.train.grid import TrainConfig
from read_cache.train.run import open_batches


@pytest.fixture(scope="module")
def many_parts(tmp_path_factory, models, rows_folder) -> StoreReader:
    """A store of small parts."""
    path = tmp_path_factory.mktemp("parts") / "words"
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    return make_store(path, models["tied"], *words, part_tokens=50)


def test_the_batches_are_the_same_in_every_tier_and_from_any_position(many_parts) -> None:
    """Streamed, held in memory, held as tensors as on a device; one epoch differs from another and from other seeds."""
    store = many_parts
    split, collator = store.split("train"), make_collator(store)
    assert split.parts > 4
    tiers = {tier: SplitBatches(split, collator, 8, window=2, tier=tier) for tier in ("streamed", "memory", "device")}

    def epoch(tier: str, seed: int, number: int, start: int = 0) -> list[bytes]:
        batches = tiers[tier].epoch(seed, number, start)
        return [b.encoder.whole_states().numpy().tobytes() + b.cross_attention.numpy().tobytes() for b in batches]

    first = epoch("streamed", 0, 0)
    assert len(first) == len(tiers["streamed"]) == -(-split.examples // 8)
    for tier in tiers:
        assert epoch(tier, 0, 0) == first
        assert epoch(tier, 0, 0, start=3) == first[3:]
        assert len({tuple(first), tuple(epoch(tier, 0, 1)), tuple(epoch(tier, 1, 0))}) == 3


def test_a_reader_that_is_left_in_the_middle_lets_go(many_parts) -> None:
    store = many_parts
    batches = SplitBatches(store.split("train"), make_collator(store), 4, window=1)
    whole = [batch.final for batch in batches.epoch(0, 0)]
    reading = batches.epoch(0, 0)
    next(reading)
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]
    assert all(torch.equal(a.final, b) for a, b in zip(batches.epoch(0, 0), whole, strict=True))


def test_too_little_memory_says_what_would_do(many_parts) -> None:
    with pytest.raises(UserError, match=r"raise --memory, lower --window"):
        open_batches(many_parts, [ReadConfig()], TrainConfig(window=2), "cpu", 1e-9)


sizes = st.dictionaries(
    st.sampled_from(["train", "validation", "test"]),
    st.builds(SplitSize, st.integers(1, 9), st.integers(1, 30)),
    min_size=1,
)


@given(sizes, st.integers(1, 4), st.integers(0, 600), st.integers(0, 300))
@example({"validation": SplitSize(90, 8), "train": SplitSize(100, 9)}, 4, 810, 0)
def test_what_is_kept_leaves_room_to_stream_the_rest(
    sizes: dict[str, SplitSize], window: int, memory: int, device: int
) -> None:
    """Within memory; refused only where one split alone could not be streamed; all kept where all fit."""
    whole = sum(size.whole_bytes for size in sizes.values())
    try:
        tiers = assign_tiers(sizes, window, memory, device)
    except UserError:
        assert max(size.streamed_bytes(window) for size in sizes.values()) > memory
        return
    taken = {tier: [sizes[name] for name in sizes if tiers[name] == tier] for tier in tiers.values()}
    streamed = max((size.streamed_bytes(window) for size in taken.get("streamed", [])), default=0)
    assert sum(size.whole_bytes for size in taken.get("memory", [])) + streamed <= memory
    assert sum(size.whole_bytes for size in taken.get("device", [])) <= device
    assert "streamed" not in taken or whole > memory


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


def test_channels_are_standardized_over_training_rows(words_store) -> None:
    store = StoreReader(words_store)
    batches = SplitBatches(store.split("train"), make_collator(store), 7)
    for statistics, name in zip(channel_statistics(batches), ("encoder", "decoder"), strict=True):
        rows = torch.cat([getattr(batch, name).whole_states().flatten(1, 2) for batch in batches.in_order()], dim=1)
        rows = rows[:, rows[-1].abs().sum(-1) > 0]
        torch.testing.assert_close(statistics.mean, rows.mean(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(statistics.deviation, rows.std(1, unbiased=False), atol=1e-4, rtol=1e-3)
