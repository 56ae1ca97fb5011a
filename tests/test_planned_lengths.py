"""Rows that are not at hand: how long `read-cache plan` takes them to be, against rows that are."""

import shutil
from pathlib import Path

import pytest

from conftest import SHARED
from read_cache.extract.config import ExtractConfig
from read_cache.planning.glue import GLUE_FILES, estimated_lengths
from read_cache.planning.models import describe_model, table_config
from read_cache.planning.rows import plan_manifest, plan_rows
from read_cache.report.paper import TASKS as PAPER_TASKS
from read_cache.report.paper import official_rows
from read_cache.store.reader import array_bytes
from read_cache.tasks import TASKS


@pytest.mark.parametrize("task", GLUE_FILES)
def test_glue_is_as_large_as_it_is(task: str) -> None:
    """The protocol's splits of the published files; every length plausible."""
    lengths = estimated_lengths(TASKS[task])
    assert list(lengths) == ["train", "validation", "test"]
    assert sum(map(len, lengths.values())) == sum(file.rows for file in GLUE_FILES[task].values())
    if task in PAPER_TASKS:
        assert {split: len(values) for split, values in lengths.items()} == official_rows(task)
    assert all(values.min() >= 5 and values.max() < 1000 for values in lengths.values())


@pytest.mark.parametrize(("task", "rows"), [("cola", None), ("mrpc", None), ("stsb", None), ("qnli", "test")])
def test_measured_lengths_are_those_of_real_rows(
    task: str, rows: str | None, shared_glue: Path, tmp_path: Path
) -> None:
    """Within 2% of tokens and 4% of attention pairs, by T5's own vocabulary; and nodes of the label trie."""
    folder = shutil.copytree(SHARED / "tokenizer", tmp_path / "t5")
    table_config((64, 1, 1, 64, 64), gated=False).save_pretrained(folder)
    described = describe_model(str(folder))
    estimated = plan_rows(TASKS[task], None, describe_model("t5-base"), ExtractConfig())
    real = plan_rows(TASKS[task], str(shared_glue / task), described, ExtractConfig())
    assert (estimated.exact, real.exact) == (False, True)
    names = real.splits if rows is None else (rows,)
    for extent, tolerance in (("token", 0.02), ("pair", 0.04), ("node", 0.02)):
        found, known = ([by.splits[n].layout.extents[extent] for n in names] for by in (estimated, real))
        assert list(map(len, found)) == list(map(len, known))
        assert sum(values.sum() for values in found) == pytest.approx(sum(v.sum() for v in known), rel=tolerance)


def test_another_vocabulary_scales_what_is_estimated(shared_glue: Path) -> None:
    """The bundled vocabulary on rows that are not read, within 10% of the bytes that they take."""
    config, described = ExtractConfig(), describe_model("t5-tiny-wiki")
    totals = []
    for dataset in (None, str(shared_glue / "mrpc")):
        rows = plan_rows(TASKS["mrpc"], dataset, described, config)
        totals.append(sum(array_bytes(plan_manifest(TASKS["mrpc"], dataset, described, rows, config)).values()))
    assert totals[0] == pytest.approx(totals[1], rel=0.1)
