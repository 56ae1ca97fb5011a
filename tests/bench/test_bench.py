"""`read-cache bench` measures what it says, on a case so small that its figures mean nothing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from read_cache.bench.case import QUICK, BenchConfig, Case, random_store
from read_cache.bench.measure import Result, alternate, ratio
from read_cache.bench.plan import bench_plan
from read_cache.bench.read import write_flat
from read_cache.bench.run import PARTS, run_bench
from read_cache.bench.train import streamed
from read_cache.errors import UserError
from read_cache.store.reader import StoreReader, array_bytes
from support.processes import run

SMALL = QUICK.replaced(rows=12, store_megabytes=8)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The results of all parts but plan."""
    results = dict[str, Result]()
    parts = [part for part in PARTS if part != "plan"]
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        found = run_bench(SMALL, parts, results.__setitem__)
    assert not list(folder.iterdir()), "temporary stores are removed"
    assert list(results) == list(found["parts"]) == parts
    return found


def test_the_results_say_where_and_how_they_were_measured(found: dict) -> None:
    assert {"cores", "cpu", "memory_gb", "torch_threads", "python", "torch", "zarr", "numpy"} <= set(found["machine"])
    assert found["config"] == SMALL.values()


@pytest.mark.parametrize("part", ["extract", "read", "train", "live"])
def test_every_repeat_is_there_and_ratios_are_of_them(found: dict, part: str) -> None:
    result = found["parts"][part]
    assert all(len(times) == QUICK.repeats and min(times) > 0 for times in result["seconds"].values())
    assert result["ratios"]
    for each in result["ratios"]:
        assert all(math.isfinite(value) and value > 0 for value in each["repeats"])
        assert each["min"] <= each["median"] <= each["max"]


def test_sides_are_what_was_asked_for(found: dict) -> None:
    parts = found["parts"]
    assert set(parts["extract"]["seconds"]) == {"fill, bf16", "fill, recommended", "forward"}
    assert set(parts["read"]["seconds"]) == {"read-cache", "memory map", "zarr"}
    assert {"rnn, streamed", "gru, in memory", "32 in one pass", "32 passes"} <= set(parts["train"]["seconds"])
    assert set(parts["live"]["seconds"]) == {"cached", "cached, bf16", "LST cached", "frozen", "LoRA"}
    assert parts["extract"]["facts"]["rows"] == 12
    assert parts["train"]["facts"]["rows"] == 64


def test_the_command_prints_and_writes_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "extract", "--quick", "--set", "rows=6", "--json", tmp_path / "out.json"]
    code, out, err = run(words, monkeypatch, capsys)
    assert code == 0, err
    for told in ("extract", "fill, bf16 / forward", "at most 1.05"):
        assert told in out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["command"].startswith("read-cache bench extract")
    assert set(written["parts"]) == {"extract"}


def test_a_plan_is_compared_with_what_happens(tmp_path: Path) -> None:
    ratios = {each["ratio"]: each["median"] for each in bench_plan(Case(SMALL, tmp_path)).ratios}
    assert ratios.pop("megabytes, measured / megabytes, planned") == 1
    assert set(ratios) == {f"{stage}, measured / {stage}, planned" for stage in ("extraction", "training")}
    assert min(ratios.values()) > 0


def test_sides_take_turns_and_the_first_round_is_not_counted() -> None:
    called: list[str] = []

    def side(name: str, seconds: float) -> Any:
        return lambda: called.append(name) or seconds

    seconds = alternate({"a": side("a", 1.0), "b": side("b", 4.0)}, repeats=3)
    assert seconds == {"a": [1.0] * 3, "b": [4.0] * 3}
    assert sorted(called) == ["a"] * 4 + ["b"] * 4
    assert called[:4] in (["a", "b", "b", "a"], ["b", "a", "a", "b"]), "who is first turns"
    assert ratio(seconds, "a", "b", "")["repeats"] == [0.25] * 3


def test_the_flat_copy_holds_the_bytes_that_are_read(tmp_path: Path, words_store: Path) -> None:
    split = StoreReader(words_store).split("train")
    extents = write_flat(split, tmp_path / "flat")
    flat = np.fromfile(tmp_path / "flat", np.uint8)
    read = [array for part in range(split.parts) for array in split.read_part(part).values()]
    assert sum(extents[-1]) == len(flat) == sum(array.nbytes for array in read)
    for (start, size), array in zip(extents, read, strict=True):
        assert flat[start : start + size].tobytes() == array.tobytes()


def test_a_random_store_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    """Every value is finite."""
    store = random_store(Case(QUICK.replaced(store_megabytes=4), tmp_path))
    row = array_bytes(store.manifest)["encoder/hidden"] / store.manifest.splits["train"].tokens
    assert store.manifest.splits["train"].tokens * row == pytest.approx(4e6, rel=0.25)
    batch = next(streamed(store).in_order())
    assert all(stack.whole_states().isfinite().all() for stack in batch.stacks.values())
    assert batch.stacks["encoder"].self_attention.isfinite().all()


@pytest.mark.parametrize("values", [{"rows": 0}, {"repeats": 0}, {"shape": "t5-11b"}])
def test_settings_are_checked(values: dict) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        BenchConfig(**values)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (("speed",), "speed"),
        (("extract", "--set", "rows=0"), "rows"),
        (("extract", "--set", "speed=0"), "speed"),
        (("extract", "--set", "tokenizer=nowhere"), "nowhere"),
        (("extract", "--quick", "--set", f"tokenizer={Path(__file__).parent}"), "no tokenizer"),
        (("extract", "--json", "nowhere/out.json"), "nowhere"),
        (("extract", "--set", "task=colla"), "colla"),
        (("extract", "--set", "shape=t5-11b"), "t5-11b"),
    ],
)
def test_bad_options_end_in_one_message(
    options: tuple, fact: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["bench", *options], monkeypatch, capsys)
    assert code == 2
    assert fact in err
    assert "Traceback" not in err
