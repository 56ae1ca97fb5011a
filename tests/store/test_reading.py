"""Reading a sealed store: by plain tools, by layers, and in the same bytes wherever and whenever it was made."""

import shutil

import numpy as np
import pytest
import xarray
import zarr

from read_cache.errors import StoreError
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.store.schema import activation_arrays, plan_arrays
from support.processes import contents
from support.stores import make_store, stored_values


@pytest.fixture(params=["words_store", "bert_store"])
def store(request) -> StoreReader:
    """A store of two stacks, or of one."""
    return StoreReader(request.getfixturevalue(request.param))


def test_it_opens_with_plain_zarr_and_holds_what_the_schema_says(store) -> None:
    manifest = store.manifest
    root = zarr.open_group(f"{store.folder.path}/arrays.zarr", mode="r")
    for split in manifest.splits:
        stored = activation_arrays(manifest.backbone, manifest.format)
        for spec in (*plan_arrays(manifest.backbone, manifest.format), *stored):
            array = root[f"{split}/{spec.name}"]
            assert str(array.dtype) == spec.dtype
            assert array.metadata.dimension_names == spec.axes
            assert array.attrs["meaning"] == spec.meaning
            if spec in stored:
                axis = spec.axes.index(spec.flat_axis)
                assert array.shape[axis] == array.shards[axis] * manifest.splits[split].parts
                assert array.shape[0] == len(manifest.format.array_layers(spec.name))
    hidden = root["train/encoder/hidden"]
    assert hidden.attrs["bits_of"] == "bfloat16"
    start, length = root["train/encoder/token_offset"][3], root["train/encoder/length"][3]
    bits = hidden[:, start : start + length].astype(np.uint32) << 16
    assert np.isfinite(bits.view(np.float32)).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::FutureWarning")
def test_it_opens_with_xarray(words_store) -> None:
    for group, name in (("train/encoder", "length"), ("train/encoder", "hidden"), ("train/decoder", "cross_attention")):
        dataset = xarray.open_zarr(words_store / "arrays.zarr", group=group, consolidated=False)
        assert dataset[name].size > 0


def test_attention_weights_lie_as_the_schema_says(words_store) -> None:
    """Every row of weights sums to one, a causal stack's over its lower triangle; fp16 leaves a thousandth."""
    store = StoreReader(words_store)
    plan = store.split("validation").plan
    for row, (tokens, nodes) in enumerate(zip(plan["encoder/length"], plan["decoder/length"], strict=True)):
        kinds = ("encoder/self_attention", "decoder/self_attention", "decoder/cross_attention")
        own, causal, cross = (stored_values(store, "validation", row, kind).astype(np.float32) for kind in kinds)
        assert causal.shape[-1] == nodes * (nodes + 1) // 2
        triangle = np.zeros((len(causal), nodes, nodes), np.float32)
        for to in range(nodes):
            for source in range(to + 1):
                triangle[:, to, source] = causal[:, to * (to + 1) // 2 + source]
        whole = (own.reshape(-1, tokens, tokens), triangle, cross.reshape(-1, nodes, tokens))
        for weights in whole:
            np.testing.assert_allclose(weights.sum(-1), 1, atol=2e-3)


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


def test_what_is_read_is_what_plain_zarr_reads(store) -> None:
    root = zarr.open_group(f"{store.folder.path}/arrays.zarr", mode="r")
    for split in map(store.split, store.manifest.splits):
        for name, spec in split.specs.items():
            plain, axis = np.asarray(root[f"{split.name}/{name}"][...]), spec.axes.index(spec.flat_axis)
            for part in range(split.parts):
                values = split.read_array(name, part)
                start = part * split.layout.sizes[spec.flat_axis]
                assert np.array_equal(values, plain.take(range(start, start + values.shape[axis]), axis))


def test_reading_fewer_layers_reads_only_those(tmp_path, words_store) -> None:
    split = StoreReader(words_store).split("train")
    whole = split.read_part(1)
    hidden, attention = (split.read_array(f"encoder/{name}", 1, layers=[2]) for name in ("hidden", "self_attention"))
    assert np.array_equal(hidden, whole["encoder/hidden"][[0, 2, 3]])  # and the first and the last
    assert np.array_equal(attention, whole["encoder/self_attention"][[1, 2]])
    damaged = tmp_path / "damaged"
    shutil.copytree(words_store, damaged)
    path = damaged / split.manifest.shard_file(split.specs["encoder/hidden"], "train", 1)
    data = bytearray(path.read_bytes())
    data[split.shard("encoder/hidden").stride + 5] ^= 1  # in layer 1
    path.write_bytes(data)
    damaged_split = StoreReader(damaged).split("train")
    damaged_split.read_array("encoder/hidden", 1, layers=[2])
    with pytest.raises(StoreError, match="checksum of layer 1 is wrong"):
        damaged_split.read_array("encoder/hidden", 1, layers=[1])


def test_a_format_of_fewer_layers_and_some_arrays(words_store) -> None:
    split = StoreReader(words_store).split("train")
    fewer = split.manifest.format.replaced(layers={"encoder": (2, 3), "decoder": (2,)})
    part = split.read_part(1, ["encoder/hidden", "decoder/cross_attention"], fewer)
    whole = split.read_part(1)
    assert list(part) == ["encoder/hidden", "decoder/cross_attention"]
    assert np.array_equal(part["encoder/hidden"], whole["encoder/hidden"][[0, 2, 3]])
    assert np.array_equal(part["decoder/cross_attention"], whole["decoder/cross_attention"][[1]])
    sizes = [split.manifest.part_bytes("train", part, format) for format in (fewer, split.manifest.format)]
    assert sizes[0] < sizes[1]


def test_what_belongs_to_no_split(words_store, bert_store, models, rows_folder, tmp_path) -> None:
    words, pairs = StoreReader(words_store), StoreReader(bert_store)
    tokens, weight = words.head
    assert np.array_equal(tokens, words.manifest.trie.tokens)
    assert weight.shape == (len(tokens), 32)
    assert set(words.final_norm) == {"encoder", "decoder"}
    assert (pairs.head, pairs.final_norm, pairs.calibration, words.calibration) == (None, {}, None, None)
    small = make_store(
        tmp_path / "int8", models["tied"], str(rows_folder / "words.toml"), rows_folder / "words", dtype="int8", rank=4
    )
    shapes = {name: values.shape for name, values in small.calibration.arrays().items()}
    assert shapes == {"mean": (4, 32), "deviation": (4, 32), "scale": (4, 4), "basis": (4, 4, 32)}


def test_its_text_names_what_it_holds(store) -> None:
    manifest, text = store.manifest, repr(store)
    rows = [f"{name} {split.examples}" for name, split in manifest.splits.items()]
    megabytes = f"{sum(array_bytes(manifest).values()) / 1e6:,.1f} MB"
    for fact in (store.folder.path, manifest.task.name, manifest.backbone.name, *rows, megabytes):
        assert fact in text


def test_an_unknown_split_is_named_with_those_there_are(words_store) -> None:
    with pytest.raises(StoreError, match=r"no split 'dev'; it has: train, validation, test"):
        StoreReader(words_store).split("dev")
