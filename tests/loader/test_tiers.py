"""Where splits are held: within the memory that is given."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from read_cache.errors import UserError
from read_cache.loader.tiers import SplitSize, assign_tiers

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
    whole = sum(size.part_bytes * size.parts for size in sizes.values())
    try:
        tiers = assign_tiers(sizes, window, memory, device)
    except UserError:
        assert max(size.part_bytes * size.parts_ahead(window) for size in sizes.values()) > memory
        return
    taken = {tier: [sizes[name] for name in sizes if tiers[name] == tier] for tier in tiers.values()}
    streamed = max((size.part_bytes * size.parts_ahead(window) for size in taken.get("streamed", [])), default=0)
    assert sum(size.part_bytes * size.parts for size in taken.get("memory", [])) + streamed <= memory
    assert sum(size.part_bytes * size.parts for size in taken.get("device", [])) <= device
    assert "streamed" not in taken or whole > memory


def test_a_device_is_bounded_by_its_own_memory_alone() -> None:
    """An accelerator with 40 GB free holds a store of 30 GB, though the host is given 4 GB."""
    sizes = {"train": SplitSize(1000, 30), "validation": SplitSize(1000, 12)}
    assert assign_tiers(sizes, 1, 4000, 31_000) == {"validation": "device", "train": "streamed"}
    assert assign_tiers(sizes, 1, 4000, 42_000) == {"validation": "device", "train": "device"}


def test_too_little_memory_names_the_settings_to_change() -> None:
    with pytest.raises(UserError, match=r"4 parts of .*memory.*window") as told:
        assign_tiers({"train": SplitSize(1000, 9)}, 2, 3999, 0)
    assert "--" not in str(told.value)
    assert assign_tiers({"train": SplitSize(1000, 9)}, 2, 4000, 0) == {"train": "streamed"}
