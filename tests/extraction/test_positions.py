"""Stores of readout positions and of pooled states, against stores of all positions."""

import numpy as np
import pytest

from read_cache.backbones import open_backbone
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store
from support.backbones import folder_of
from support.stores import make_store, plan_values, stored_values

FORMATS = [{"dtype": "fp32"}, {}, {"dtype": "int8"}, {"dtype": "int8", "rank": 8}]


def store_of(folder, rows_folder, kind: str, task: str = "words", **settings) -> StoreReader:
    rows = rows_folder / ("scores" if task == "pairs" else "words")
    settings = {"max_source_length": 60, "attention": "none"} | settings
    return make_store(folder, folder_of(kind), str(rows_folder / f"{task}.toml"), rows, **settings)


def states(store: StoreReader, split: str, row: int, name: str) -> np.ndarray:
    """Return stored values in float32, bfloat16 decoded."""
    values = stored_values(store, split, row, name)
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize(("kind", "task"), [("llama", "words"), ("gpt2", "open")])
def test_readout_states_are_those_of_a_store_of_all_positions(tmp_path, rows_folder, kind, task, format) -> None:
    """Every array, bit for bit, in every format; the last state is whole beside int8 and rank."""
    everywhere = store_of(tmp_path / "all", rows_folder, kind, task, positions="all", **format)
    readout = store_of(tmp_path / "readout", rows_folder, kind, task, **format)
    assert readout.manifest.format.positions == "readout"
    assert list(verify_store(readout)) == []
    fewer = 0
    for split, info in readout.manifest.splits.items():
        assert everywhere.split(split).specs.keys() == readout.split(split).specs.keys()
        for row in range(info.examples):
            trie, target = (plan_values(everywhere, split, row, f"decoder/{name}") for name in ("trie", "target"))
            places = [n for n in range(len(trie)) if trie[n] >= 0 or target[n] >= 0]
            fewer += len(trie) - len(places)
            for name in readout.split(split).specs:
                expected = stored_values(everywhere, split, row, name)[:, places]
                assert np.array_equal(stored_values(readout, split, row, name), expected), name
    assert fewer > 100
    assert ("decoder/final" in readout.split("train").specs) == readout.manifest.format.calibrated


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize(("kind", "task"), [("bert", "pairs"), ("roberta", "words"), ("tied", "words")])
def test_pooled_states_are_means_over_the_tokens(tmp_path, rows_folder, kind, task, format) -> None:
    """Of the first token, of all tokens, of each text; the last state is whole beside them."""
    everywhere = store_of(tmp_path / "all", rows_folder, kind, task, positions="all", dtype="fp32")
    pooled = store_of(tmp_path / "pooled", rows_folder, kind, task, positions="pooled", compute_dtype="fp32", **format)
    assert list(verify_store(pooled)) == []
    bert, noise = kind != "tied", 1e-5 if format.get("dtype") == "fp32" else 2**-8
    for split, info in pooled.manifest.splits.items():
        assert ("encoder/final" in pooled.split(split).specs) == bert
        for row in range(info.examples):
            phi = states(everywhere, split, row, "encoder/hidden")
            groups = [[0], list(range(phi.shape[1]))]
            if bert:
                segment = plan_values(everywhere, split, row, "encoder/segment")
                groups += [np.flatnonzero(segment == text).tolist() for text in range(1 + (task == "pairs"))]
            x = phi / np.sqrt((phi**2).mean(-1, keepdims=True) + 1e-6)
            found = states(pooled, split, row, "encoder/hidden")
            if (calibration := pooled.calibration) is not None:
                x = (x - calibration.mean[:, None]) / calibration.deviation[:, None]
                if calibration.basis is not None:
                    x = np.einsum("lkd,ltd->ltk", calibration.basis, x)
                x = x / calibration.scale[:, None]
            expected = np.stack([x[:, group].mean(1) for group in groups], 1)
            half_a_step = {"rtol": noise, "atol": 1e-5 if calibration is None else 0.51}
            np.testing.assert_allclose(found, expected, **half_a_step)
            if bert:
                final = states(pooled, split, row, "encoder/final")[0]
                np.testing.assert_allclose(final, [phi[-1, group].mean(0) for group in groups], rtol=noise, atol=noise)
            else:
                assert stored_values(pooled, split, row, "decoder/hidden").shape[1] == len(
                    plan_values(everywhere, split, row, "decoder/token")
                )


def test_positions_follow_from_backbone_and_attention() -> None:
    decoder, encoder = (open_backbone(str(folder_of(kind))).spec for kind in ("llama", "bert"))

    def chosen(spec, **settings) -> tuple[str, str]:
        format = ExtractConfig(**settings).format(spec)
        return format.positions, format.attention

    assert chosen(encoder) == ("all", "mean")
    assert chosen(decoder) == chosen(decoder, attention="none") == ("readout", "none")
    assert chosen(decoder, positions="readout") == ("readout", "none")
    assert chosen(decoder, attention="mean") == chosen(decoder, positions="all") == ("all", "mean")
    assert chosen(decoder, attention="none", positions="all") == chosen(encoder, attention="none") == ("all", "none")
    assert chosen(encoder, positions="pooled") == ("pooled", "none")


@pytest.mark.parametrize(
    ("kind", "settings", "fact"),
    [
        ("bert", {"positions": "readout"}, "decoder-only"),
        ("tied", {"positions": "readout"}, "decoder-only"),
        ("llama", {"positions": "pooled"}, "no encoder"),
        ("bert", {"positions": "pooled", "attention": "mean"}, "attention"),
        ("llama", {"positions": "readout", "attention": "heads"}, "attention"),
    ],
)
def test_positions_that_no_store_can_have_are_refused(kind, settings, fact) -> None:
    with pytest.raises(UserError, match=f"positions is .*{fact}"):
        ExtractConfig(**settings).format(open_backbone(str(folder_of(kind))).spec)
