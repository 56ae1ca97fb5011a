"""docs/store.md describes the store: its tables are the schema, and what it reads is what networks see."""

import contextlib
import re
from pathlib import Path

import crc32c
import numpy as np
import pytest
import torch

from read_cache.loader.batch import rms_norm
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.store.manifest import Activations, Provenance, TaskRecord
from read_cache.store.reader import StoreReader
from read_cache.store.schema import (
    DONE,
    SCHEMA_VERSION,
    ArraySpec,
    Format,
    activation_arrays,
    plan_arrays,
    shared_arrays,
)
from read_cache.store.spec import StackSpec
from support.pages import PAGES
from support.specs import all_layers, backbone_spec
from support.stores import make_store

PAGE = "docs/store"
ROW = re.compile(r"^\| (`.+?`) \| ([\w, ]+) \| (u?int\d+|float\d+) \|", re.M)


@pytest.fixture
def names(reader):
    """What the page's Python defines, in the page's folder."""
    found = reader.follow(PAGE)
    with contextlib.chdir(reader.folder / "pages" / PAGE):
        yield found


@pytest.mark.parametrize(
    "format",
    [{}, {"dtype": "fp32"}, {"dtype": "int8"}, {"rank": 8}, {"dtype": "int8", "rank": 8}],
    ids=lambda format: "-".join(map(str, format.values())) or "bf16",
)
@pytest.mark.parametrize("family", ["t5", "bert"])
def test_the_pages_reading_gives_what_networks_see(names, models, bert, rows_folder, tmp_path, family, format) -> None:
    """phi over its root mean square is what the collator makes of stored values, by code of its own."""
    model = models["tied"] if family == "t5" else bert
    task, rows = rows_folder / "words.toml", rows_folder / "words"
    store = make_store(tmp_path / "s", model, str(task), rows, max_source_length=40, **format)
    seen = next(SplitBatches(store.split("train"), make_collator(store), 40).in_order()).stacks["encoder"]
    for i in (0, 17, 39):
        states = torch.from_numpy(names["encoder_states"](Path(store.folder.path), "train", i))
        expected = seen.whole_states()[:, i, : states.shape[1]]
        torch.testing.assert_close(rms_norm(states), rms_norm(expected), atol=1e-5, rtol=1e-4)


def test_the_pages_attention_is_what_the_reader_gives(names) -> None:
    split = StoreReader(names["store"]).split("validation")
    number = int(np.searchsorted(split.layout.part_start, names["i"], side="right")) - 1
    part, before = split.read_part(number), slice(split.layout.examples(number).start, names["i"])
    pair, token = (int(split.layout.extents[f"encoder_{axis}"][before].sum()) for axis in ("pair", "token"))
    count = int(split.plan["encoder/length"][names["i"]])
    weights = part["encoder/self_attention"][:, pair : pair + count**2]
    assert np.array_equal(names["attention"], weights.reshape(-1, count, count).astype(np.float32))
    assert np.array_equal(names["bits"], part["encoder/hidden"][:, token : token + count])


def test_a_parts_checksums_are_as_the_page_says(names) -> None:
    """`done`: a mark, then the crc32c of every layer of every array; each stands after its layer in the file too."""
    store = StoreReader(names["store"])
    split, checksums = store.split("validation"), []
    for spec in activation_arrays(store.manifest.backbone, store.manifest.format):
        data = (names["store"] / store.manifest.shard_file(spec, "validation", 1)).read_bytes()
        array = split.open_array(spec.name)
        layer_bytes = np.dtype(spec.dtype).itemsize * int(np.prod(array.chunks))
        for layer in range(array.shape[0]):
            start = layer * (layer_bytes + 4)
            checksums.append(crc32c.crc32c(data[start : start + layer_bytes]))
            assert data[start + layer_bytes : start + layer_bytes + 4] == checksums[-1].to_bytes(4, "little")
    assert split.done[1][1:].tolist() == checksums
    assert split.done[1][0] != 0


def every_array() -> set[tuple[str, tuple[str, ...], str]]:
    """(name, axes, dtype) of every array of T5 and BERT stores, with S for the name of a stack."""
    specs: list[tuple[ArraySpec, tuple[StackSpec, ...]]] = [(DONE, ())]
    for family in ("t5", "bert"):
        backbone = backbone_spec(family)
        plain = all_layers(family)
        for format in (plain, plain.replaced(dtype="int8", rank=1)):
            arrays = activation_arrays(backbone, format) if format is plain else ()
            small = [spec for spec in activation_arrays(backbone, format) if spec.name.endswith(("/rms", "/final"))]
            arrays = (*plan_arrays(backbone, format), *arrays, *small, *shared_arrays(backbone, format))
            specs += [(spec, backbone.stacks) for spec in arrays]
    for family, positions in (("causal", "readout"), ("bert", "pooled")):
        arrays = plan_arrays(backbone_spec(family), all_layers(family, attention="none", positions=positions))
        specs += [(spec, backbone_spec(family).stacks) for spec in arrays]
    found = set()
    for spec, stacks in specs:
        stack = "|".join(stack.name for stack in stacks) or "-"
        name = re.sub(rf"^({stack})(?=/)|(?<=^final_norm/)({stack})$", "S", spec.name)
        found.add((name, tuple(re.sub(rf"^({stack})(?=_)", "S", axis) for axis in spec.axes), spec.dtype))
    return found


def test_the_tables_of_arrays_are_the_schema() -> None:
    text = PAGES[PAGE].read_text(encoding="utf-8")
    shown = {
        (name, tuple(axes.split(", ")), dtype)
        for names, axes, dtype in ROW.findall(text)
        for name in re.findall(r"`(.+?)`", names)
    }
    assert shown == every_array()
    assert f"schema version {SCHEMA_VERSION}" in text
    for record in (Activations, TaskRecord, Provenance, Format, StackSpec):
        for field in record.model_fields:
            assert re.search(rf"\b{field}\b", text), f"store.md does not mention {field} of {record.__name__}"
