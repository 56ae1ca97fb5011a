"""Files that are missing, cut, flipped, exchanged or edited: named by `verify`, and found by reading."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from read_cache.errors import StoreError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.store.reader import StoreReader, checksum_columns
from read_cache.store.schema import DONE
from read_cache.store.shard import Shard, part_mark
from read_cache.store.verify import finite, verify_store
from support.files import flip, tensors
from support.processes import contents
from support.spoil import cut
from support.stores import make_store

SPLITS = ("train", "validation", "test")
HIDDEN = "arrays.zarr/train/encoder/hidden/c/0/{part}/0"


@pytest.fixture
def store(tmp_path, words_store) -> Path:
    """A copy of the `words` store, to be damaged."""
    return Path(shutil.copytree(words_store, tmp_path / "store"))


def read_all(store: StoreReader) -> None:
    """Read every part of every split, and check the plan, as training does."""
    store.check_plan()
    for name in store.manifest.splits:
        split = store.split(name)
        for part in range(split.parts):
            split.read_part(part)


def test_a_whole_store_has_no_findings(words_store, bert_store) -> None:
    for path in (words_store, bert_store):
        assert list(verify_store(StoreReader(path))) == []
        read_all(StoreReader(path))


@pytest.mark.parametrize("keep_size", [True, False])
def test_checksums_are_compared_again_when_a_file_was_changed(store, monkeypatch, keep_size) -> None:
    """And not while it is as it was; other layers of it are others."""
    compared, corrupt = [], Shard.corrupt

    def count(self: Shard, layer: np.ndarray) -> bool:
        compared.append(len(layer))
        return corrupt(self, layer)

    monkeypatch.setattr(Shard, "corrupt", count)
    split, file = StoreReader(store).split("train"), store / HIDDEN.format(part=0)
    first = split.read_array("encoder/hidden", 0)
    layers = len(first)
    assert np.array_equal(split.read_array("encoder/hidden", 0), first)
    assert len(compared) == layers
    split.read_array("encoder/hidden", 0, [1])
    assert len(compared) > layers
    whole = file.read_bytes()
    if keep_size:
        flip(file, 100)
    else:
        file.write_bytes(whole[:-7])
    with pytest.raises(StoreError, match="corrupt"):
        split.read_array("encoder/hidden", 0)
    file.write_bytes(whole)
    assert np.array_equal(split.read_array("encoder/hidden", 0), first)


def test_a_chunk_that_is_missing_cut_or_flipped_is_found_by_name(tmp_path, words_store) -> None:
    rng = np.random.default_rng(0)
    activations = list(StoreReader(words_store).split("train").specs)
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


@pytest.mark.parametrize("layers", [None, [2]], ids=["whole", "some layers"])
def test_another_parts_file_is_found_by_verify_and_by_reading(store, layers) -> None:
    """DEFECTS 4: an intact file, copied over another part's."""
    shutil.copy(store / HIDDEN.format(part=0), store / HIDDEN.format(part=1))
    found = list(verify_store(StoreReader(store)))
    assert len(found) == 1
    assert found[0].startswith(HIDDEN.format(part=1))
    split = StoreReader(store).split("train")
    split.read_array("encoder/hidden", 0, layers)
    with pytest.raises(StoreError, match=f"{HIDDEN.format(part=1)} is intact but is not the file"):
        split.read_array("encoder/hidden", 1, layers)


def test_the_file_of_another_backbone_is_found(models, rows_folder, tmp_path) -> None:
    """Of the same rows: every checksum in it is right."""
    for kind in ("tied", "untied"):
        words = str(rows_folder / "words.toml"), rows_folder / "words"
        make_store(tmp_path / kind, models[kind], *words, max_examples=4)
    name = HIDDEN.format(part=0)
    shutil.copy(tmp_path / "untied" / name, tmp_path / "tied" / name)
    with pytest.raises(StoreError, match="is not the file"):
        StoreReader(tmp_path / "tied").split("train").read_part(0)


@pytest.mark.parametrize(
    ("array", "what"),
    [("label", "labels"), ("score", "labels"), ("decoder/target", "labels"), ("decoder/trie", "labels"),
     ("encoder/token", "tokens"), ("example_id", "tokens"), ("decoder/parent", "tokens")],
)  # fmt: skip
def test_an_edited_plan_array_is_found_by_verify_and_by_reading(store, array, what) -> None:
    """DEFECTS 4: changed with plain zarr, so every checksum is right."""
    values = zarr.open_group(store / "arrays.zarr", mode="r+")[f"train/{array}"]
    values[0] = values[0] + 1
    found = list(verify_store(StoreReader(store)))
    assert len(found) == 1
    assert f"its {what} were changed" in found[0]
    with pytest.raises(StoreError, match=rf"its {what} were changed") as refused:
        StoreReader(store).check_plan()
    assert str(store) in str(refused.value)


def test_done_holds_a_mark_and_the_checksums_of_every_layer(words_store) -> None:
    for name in SPLITS:
        split = StoreReader(words_store).split(name)
        for part in range(split.parts):
            layers = []
            for array in split.specs:
                shard = split.shard(array)
                image = np.fromfile(words_store / split.file(array, part), np.uint8)
                layers.append(shard.checksums(image))
                assert np.array_equal(split.sealed_checksums(array, part), layers[-1])
                assert len(layers[-1]) == len(split.manifest.format.array_layers(array))
            together = np.concatenate(layers)
            assert split.done[part].tolist() == [part_mark(together), *together.tolist()]
            assert split.done[part, 0] != 0


def test_a_part_that_is_not_marked_as_done_is_found(store) -> None:
    done = zarr.open_group(store / "arrays.zarr", mode="r+")[f"train/{DONE.name}"]
    done.with_config({"write_empty_chunks": True})[1] = 0
    found = list(verify_store(StoreReader(store)))
    assert any(line.startswith("train/done: part 1 ") for line in found)
    with pytest.raises(StoreError, match=r"c/0/1/0 is intact but"):
        StoreReader(store).split("train").read_part(1)


def test_offsets_that_do_not_follow_from_the_lengths_are_found(store) -> None:
    zarr.open_group(store / "arrays.zarr", mode="r+")["train/decoder/cross_offset"][2] += 1
    assert any(line.startswith("train/decoder/cross_offset") for line in verify_store(StoreReader(store)))


def test_non_finite_values_are_found_where_they_are(store) -> None:
    """Written with right checksums, as by a program that computed them."""
    root = zarr.open_group(store / "arrays.zarr", mode="r+")
    root["head/weight"][0, 0] = np.nan
    split = StoreReader(store).split("validation")
    shard, spec = split.shard("encoder/hidden"), split.specs["encoder/hidden"]
    path = store / split.manifest.shard_file(spec, "validation", 0)
    image = np.frombuffer(path.read_bytes(), np.uint8).copy()
    shard.view(image)[2, 0, 0] = 0x7F80  # infinity in bfloat16
    shard.close(image)
    path.write_bytes(image.tobytes())
    first = 1 + checksum_columns(split.manifest)[0][spec.name]
    done = split.done[0].copy()
    done[first : first + shard.layers] = shard.checksums(image)
    root[f"validation/{DONE.name}"][0] = done
    found = list(verify_store(StoreReader(store)))
    assert "head/weight: non-finite values" in found
    file = str(path.relative_to(store))
    assert any(line.startswith(file) and "non-finite values at layer 2" in line for line in found)


def test_non_finite_values_are_seen_in_bits_and_floats() -> None:
    bits = np.array([1.0, -2.5, 3e38], dtype=np.float32).view(np.uint32) >> 16
    assert finite(bits.astype(np.uint16))
    for bad in (np.inf, -np.inf, np.nan):
        assert not finite(np.array([1.0, bad], dtype=np.float16))
        assert not finite((np.array([bad], dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16))


def test_metadata_that_describe_other_files_are_found(store) -> None:
    path = store / "arrays.zarr/train/encoder/hidden/zarr.json"
    metadata = json.loads(path.read_text())
    metadata["data_type"] = "int16"
    path.write_text(json.dumps(metadata))
    assert any(line.startswith("train/encoder/hidden: its metadata") for line in verify_store(StoreReader(store)))


def test_a_change_whose_time_was_set_back_is_found(store) -> None:
    split = StoreReader(store).split("train")
    path = store / split.file("encoder/hidden", 0)
    before, values = path.stat(), split.read_array("encoder/hidden", 0)
    kept = values.copy()
    flip(path, 8)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StoreError, match="checksum of layer 0"):
        split.read_array("encoder/hidden", 0)
    assert np.array_equal(values, kept), "what was read is no view of the file"


def test_a_file_that_is_too_long_is_named(store) -> None:
    path = store / HIDDEN.format(part=1)
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(StoreError, match=f"{HIDDEN.format(part=1)} has more bytes"):
        StoreReader(store).split("train").read_array("encoder/hidden", 1)


def trained_on(path: Path, streamed: bool) -> Iterator[list[torch.Tensor]]:
    """What belongs to no split, and every batch of an epoch over every split, read as training reads them."""
    store = StoreReader(path)
    store.check_plan()
    assert store.head is not None
    yield [torch.from_numpy(values) for values in (*store.head, *store.final_norm.values())]
    collator = make_collator(store, raw=True)
    for name in SPLITS:
        batches = SplitBatches(store.split(name), collator, 8, window=1, tier="streamed" if streamed else "memory")
        for batch in batches.epoch(seed=0, epoch=0):
            yield list(tensors(batch))


@pytest.mark.parametrize("flips", [16, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_every_flipped_bit_is_found(dtype, flips, tmp_path, models, rows_folder) -> None:
    """By verify, and by training before a batch with it is used: the batches before the error are the true ones."""
    path = tmp_path / "store"
    make_store(path, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words", dtype=dtype)
    whole = contents(path)
    chunks = sorted(name for name in whole if "/c/" in name)
    true = {streamed: list(trained_on(path, streamed)) for streamed in (False, True)}
    draw = random.Random(flips)
    for number in range(flips):
        name, streamed = draw.choice(chunks), number % 2 == 1
        bit = draw.randrange(8 * len(whole[name]))
        flip(path / name, bit)
        array = name.removeprefix("arrays.zarr/").partition("/c/")[0]
        findings = list(verify_store(StoreReader(path)))
        assert any(array in finding for finding in findings), (name, bit, findings)
        seen, found = [], None
        try:
            for batch in trained_on(path, streamed):
                seen.append(batch)
        except StoreError as error:
            found = str(error)
        assert array in (found or ""), (name, bit, found)
        for batch, expected in zip(seen, true[streamed], strict=False):
            assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True)), (name, bit)
        flip(path / name, bit)
    assert contents(path) == whole


@pytest.mark.parametrize("name", [HIDDEN.format(part=1), "arrays.zarr/validation/encoder/length/c/0"])
@pytest.mark.parametrize("spoil", [None, cut], ids=["missing", "cut"])
def test_what_is_missing_is_found_before_the_first_batch(store, name, spoil) -> None:
    path = store / name
    if spoil is None:
        path.unlink()
    else:
        path.write_bytes(spoil(path.read_bytes()))
    reader, split = StoreReader(store), name.split("/")[1]
    with pytest.raises(StoreError, match=name.removeprefix("arrays.zarr/").partition("/c/")[0]):
        SplitBatches(reader.split(split), make_collator(reader), 8).in_order().__next__()
