"""The store's contract: layout, schema, plain readers, damage, determinism."""

import json
import shutil

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st

from conftest import make_store
from processes import contents
from read_cache.errors import StoreError
from read_cache.store.layout import plan_parts
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.store.schema import FLAT_AXES, PLAN_ARRAYS, activation_arrays
from read_cache.store.verify import finite, verify_store

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 9)), min_size=1, max_size=80)


@given(lengths, st.integers(1, 300))
def test_every_example_lies_whole_in_one_part_and_none_overlap(examples, part_tokens) -> None:
    length, nodes = (np.array(values, dtype=np.int32) for values in zip(*examples, strict=True))
    layout = plan_parts(length, nodes, part_tokens)
    for axis in FLAT_AXES:
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
        assert alone or max(length[here].sum(), nodes[here].sum()) <= part_tokens


def test_parts_are_evened_out() -> None:
    length = np.full(1000, 10, dtype=np.int32)
    layout = plan_parts(length, np.ones(1000, dtype=np.int32), part_tokens=4096)
    assert np.diff(layout.part_start).min() > 300  # not two full parts and a remnant of 182


def test_it_opens_with_plain_zarr_and_holds_what_the_schema_says(words_store) -> None:
    manifest = StoreReader(words_store).manifest
    root = zarr.open_group(words_store / "arrays.zarr", mode="r")
    for split in manifest.splits:
        for spec in (*PLAN_ARRAYS, *activation_arrays(manifest.form)):
            array = root[f"{split}/{spec.name}"]
            assert str(array.dtype) == spec.dtype
            assert array.metadata.dimension_names == spec.axes
            if spec.flat_axis and spec not in PLAN_ARRAYS:
                axis = spec.axes.index(spec.flat_axis)
                assert array.shape[axis] == array.shards[axis] * manifest.splits[split].parts
    hidden = root["train/encoder/hidden"]
    assert hidden.attrs["bits_of"] == "bfloat16"
    start, length = root["train/token_offset"][3], root["train/length"][3]
    bits = hidden[:, start : start + length].astype(np.uint32) << 16
    assert np.isfinite(bits.view(np.float32)).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::FutureWarning")
def test_it_opens_with_xarray(words_store) -> None:
    for group, name in (("train", "length"), ("train/encoder", "hidden"), ("train/decoder", "cross_attention")):
        dataset = xarray.open_zarr(words_store / "arrays.zarr", group=group, consolidated=False)
        assert dataset[name].size > 0


def test_the_sizes_it_tells_are_the_sizes_on_disk(words_store) -> None:
    manifest = StoreReader(words_store).manifest
    for name, told in array_bytes(manifest).items():
        chunks = [
            file
            for split in manifest.splits
            for file in (words_store / "arrays.zarr" / split / name / "c").rglob("*")
            if file.is_file()
        ]
        assert sum(file.stat().st_size for file in chunks) == told


def test_the_same_inputs_give_the_same_bytes(tmp_path, words_store, models, rows_folder) -> None:
    make_store(tmp_path / "again", models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")
    assert contents(tmp_path / "again") == contents(words_store)


def test_the_manifest_holds_no_clock_and_no_machine(words_store) -> None:
    manifest = json.loads((words_store / "manifest.json").read_text())
    assert not {key for key in manifest if "time" in key or "date" in key or "host" in key}
    assert not (words_store / "plan.json").exists()


def test_a_chunk_that_is_missing_cut_or_flipped_is_found_by_name(tmp_path, words_store) -> None:
    good = StoreReader(words_store)
    assert list(verify_store(good)) == []
    rng = np.random.default_rng(0)
    activations = list(good.split("train").specs)
    chunks = sorted(
        path.relative_to(words_store)
        for name in activations
        for path in (words_store / "arrays.zarr" / "train" / name / "c").rglob("*")
        if path.is_file()
    )
    for number, chunk in enumerate(rng.choice(np.array(chunks, dtype=object), 6, replace=False)):
        damaged = tmp_path / f"damaged{number}"
        shutil.copytree(words_store, damaged)
        data = bytearray((damaged / chunk).read_bytes())
        if number % 3 == 0:
            (damaged / chunk).unlink()
        elif number % 3 == 1:
            (damaged / chunk).write_bytes(data[:-7])
        else:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
            (damaged / chunk).write_bytes(data)
        found = list(verify_store(StoreReader(damaged)))
        assert any(str(chunk.relative_to("arrays.zarr")) in line for line in found), (chunk, found)
        with pytest.raises(StoreError, match="corrupt"):
            read_all(StoreReader(damaged))


def test_an_intact_chunk_of_another_part_is_found_by_verify(tmp_path, words_store) -> None:
    shutil.copytree(words_store, tmp_path / "swapped")
    chunks = tmp_path / "swapped" / "arrays.zarr" / "train" / "encoder" / "hidden" / "c"
    shutil.copy(chunks / "0" / "0" / "0", chunks / "0" / "1" / "0")
    assert any("not those that were sealed" in line for line in verify_store(StoreReader(tmp_path / "swapped")))


def test_non_finite_values_are_seen_in_bits_and_floats() -> None:
    bits = np.array([1.0, -2.5, 3e38], dtype=np.float32).view(np.uint32) >> 16
    assert finite(bits.astype(np.uint16))
    for bad in (np.inf, -np.inf, np.nan):
        assert not finite(np.array([1.0, bad], dtype=np.float16))
        assert not finite((np.array([bad], dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16))


def test_reading_fewer_layers_reads_only_those(tmp_path, words_store) -> None:
    split = StoreReader(words_store).split("train")
    whole = split.read_part(1).arrays
    hidden, attention = (split.read_array(f"encoder/{name}", 1, layers=[2]) for name in ("hidden", "attention"))
    assert np.array_equal(hidden, whole["encoder/hidden"][[0, 2, 3]])  # and the first and the last
    assert np.array_equal(attention, whole["encoder/attention"][[1, 2]])
    damaged = tmp_path / "damaged"
    shutil.copytree(words_store, damaged)
    path = damaged / split.manifest.shard_file(split.specs["encoder/hidden"], "train", 1)
    data = bytearray(path.read_bytes())
    data[split.shard("encoder/hidden").stride + 5] ^= 1  # in layer 1
    path.write_bytes(data)
    damaged_split = StoreReader(damaged).split("train")
    damaged_split.read_array("encoder/hidden", 1, layers=[2])
    with pytest.raises(StoreError, match="checksum is wrong"):
        damaged_split.read_array("encoder/hidden", 1, layers=[1])


def test_what_is_read_is_what_plain_zarr_reads(words_store) -> None:
    store = StoreReader(words_store)
    root = zarr.open_group(words_store / "arrays.zarr", mode="r")
    for split in map(store.split, store.manifest.splits):
        for name, spec in split.specs.items():
            plain, axis = np.asarray(root[f"{split.name}/{name}"][...]), spec.axes.index(spec.flat_axis)
            for part in range(split.parts):
                values = split.read_array(name, part)
                start = part * split.layout.sizes[spec.flat_axis]
                assert np.array_equal(values, plain.take(range(start, start + values.shape[axis]), axis))


def read_all(store: StoreReader) -> None:
    """Read every part of every split."""
    for name in store.manifest.splits:
        split = store.split(name)
        for part in range(split.parts):
            split.read_part(part)


def test_an_absent_store_says_how_to_make_one(tmp_path) -> None:
    with pytest.raises(StoreError, match="read-cache extract --store"):
        StoreFolder(tmp_path / "nothing").read_manifest()
