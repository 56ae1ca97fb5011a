"""Where examples lie: whole in one part, apart from one another, in every arrangement of stacks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_cache.store.layout import Layout, plan_parts
from read_cache.store.schema import FLAT_AXES, activation_arrays, flat_axes, plan_arrays, shared_arrays
from support.specs import STACKS, all_layers, backbone_spec

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 9)), min_size=1, max_size=80)


def planned(arrangement: str, examples: list[tuple[int, int]], part_tokens: int) -> Layout:
    """The layout of examples of given lengths."""
    stacks = STACKS[arrangement]
    columns = zip(*examples, strict=True)
    by_stack = {stack.name: np.array(values, np.int32) for stack, values in zip(stacks, columns, strict=False)}
    return plan_parts(stacks, by_stack, part_tokens)


@pytest.mark.parametrize("arrangement", STACKS)
@given(examples=lengths, part_tokens=st.integers(1, 300))
def test_every_example_lies_whole_in_one_part_and_none_overlap(arrangement, examples, part_tokens) -> None:
    layout = planned(arrangement, examples, part_tokens)
    axes = {axis for stack in STACKS[arrangement] for axis in flat_axes(stack, all_layers(arrangement))}
    assert set(layout.extents) == set(layout.sizes) == set(layout.offsets) == axes
    for axis in axes:
        taken: set[int] = set()
        for row, (start, extent) in enumerate(zip(layout.offsets[axis], layout.extents[axis], strict=True)):
            places = set(range(int(start), int(start + extent)))
            assert not places & taken
            taken |= places
            part = int(np.searchsorted(layout.part_start, row, side="right")) - 1
            assert part * layout.sizes[axis] <= start
            assert start + extent <= (part + 1) * layout.sizes[axis]
    for part in range(layout.parts):
        here = layout.examples(part)
        assert here.stop > here.start
        alone = here.stop - here.start == 1
        assert alone or max(length[here].sum() for length in layout.lengths.values()) <= part_tokens


@given(lengths)
def test_extents_count_the_entries_of_each_kind(examples) -> None:
    """A causal stack's weights take their lower triangle only."""
    t5, bert, causal = (planned(arrangement, examples, 100) for arrangement in ("t5", "bert", "causal"))
    for row, (first, second) in enumerate(examples):
        assert bert.extents["encoder_pair"][row] == t5.extents["encoder_pair"][row] == first**2
        assert causal.extents["decoder_pair"][row] == sum(1 for to in range(first) for _ in range(to + 1))
        assert t5.extents["decoder_pair"][row] == sum(1 for to in range(second) for _ in range(to + 1))
        assert t5.extents["decoder_cross"][row] == first * second
        assert t5.extents["decoder_token"][row] == second


def test_the_entry_of_a_triangle_follows_from_its_indices() -> None:
    """Weight [to, from <= to] lies at to(to+1)/2 + from, the order of numpy's indices of a lower triangle."""
    to, source = np.tril_indices(7)
    assert (to * (to + 1) // 2 + source).tolist() == list(range(28))


def test_parts_are_evened_out() -> None:
    lengths = {"encoder": np.full(1000, 10, np.int32), "decoder": np.ones(1000, np.int32)}
    layout = plan_parts(STACKS["t5"], lengths, part_tokens=4096)
    assert np.diff(layout.part_start).min() > 300  # not two full parts and a remnant of 182


@pytest.mark.parametrize("arrangement", STACKS)
@pytest.mark.parametrize(
    "format",
    [
        {},
        {"dtype": "int8"},
        {"rank": 4},
        {"attention": "heads"},
        {"attention": "none"},
        {"attention": "none", "positions": "pooled"},
        {"attention": "none", "positions": "pooled", "dtype": "int8"},
    ],
    ids=str,
)
def test_arrays_follow_from_the_stacks(arrangement, format) -> None:
    spec, found = backbone_spec(arrangement), all_layers(arrangement, **format)
    planned, stored = plan_arrays(spec, found), activation_arrays(spec, found)
    names = [array.name for array in (*planned, *stored, *shared_arrays(spec, found))]
    assert len(set(names)) == len(names)
    for stack in spec.stacks:
        kinds = {name.partition("/")[2] for name in names if name.startswith(f"{stack.name}/")}
        assert {"length", "token_offset", "pair_offset", "token", "hidden"} <= kinds
        assert ("cross_offset" in kinds) == (stack.attends_to is not None)
        assert ("segment" in kinds) == ("token_type" in kinds) == stack.segments
        assert (f"final_norm/{stack.name}" in names) == stack.final_norm
        pooled = found.positions == "pooled" and not stack.causal
        assert ({"pooled", "pooled_length", "pooled_offset"} <= kinds) == pooled
        assert ("raw_rms" in kinds) == (stack.final_norm and not pooled)
        readout = stack.name == spec.readout
        assert ({"parent", "trie", "target"} <= kinds) == (readout and spec.language_model)
        first = stack is spec.stacks[0]
        assert ("rms" in kinds) == (found.calibrated and first and not pooled)
        assert ("final" in kinds) == (readout and (pooled or (found.calibrated and first)))
        assert ("self_attention" in kinds) == (found.attention != "none")
        assert ("cross_attention" in kinds) == (found.attention != "none" and stack.attends_to is not None)
    for array in stored:
        assert array.flat_axis is not None
        assert array.flat_axis.rpartition("_")[2] in FLAT_AXES
        assert ("head" in array.axes) == (array.name.endswith("attention") and found.attention == "heads")
    assert [name for name in names if name.startswith("calibration/")] == {
        (False, 0): [],
        (True, 0): ["calibration/mean", "calibration/deviation", "calibration/scale"],
        (True, 4): ["calibration/mean", "calibration/deviation", "calibration/scale", "calibration/basis"],
    }[found.calibrated, found.rank]
