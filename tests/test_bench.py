"""`read-cache bench` measures what it says, on a case so small that its figures mean nothing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from conftest import run_cli
from read_cache.bench.measure import Ratio, alternate, ratio
from read_cache.bench.run import PARTS

SMALL = ("--quick", "--peaks", "--rows", 6, "--repeats", 2, "--store-megabytes", 20, "--train-batches", 2)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a run of all parts wrote."""
    folder = tmp_path_factory.mktemp("bench")
    done = run_cli("bench", *SMALL, "--folder", folder, "--json", folder / "out.json")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["out.json"], "temporary stores are removed"
    for part in PARTS:
        assert part in done.stdout
    return json.loads((folder / "out.json").read_text())


def test_the_file_says_where_and_how_it_was_measured(found) -> None:
    assert found["command"].startswith("read-cache bench")
    assert {"cores", "cpu", "memory_gb", "torch_threads", "python", "torch", "zarr", "numpy"} <= set(found["machine"])
    assert found["config"]["shape"] == "t5-small"
    assert list(found["parts"]) == list(PARTS)


@pytest.mark.parametrize("part", ["extract", "read", "train", "networks", "live", "attach"])
def test_every_repeat_is_there_and_ratios_are_of_them(found, part) -> None:
    result = found["parts"][part]
    assert all(len(times) == 2 and min(times) > 0 for times in result["seconds"].values())
    assert result["ratios"]
    for one in result["ratios"]:
        assert all(math.isfinite(value) and value > 0 for value in one["repeats"])
        assert one["min"] <= one["median"] <= one["max"]


def test_sides_are_what_was_asked_for(found) -> None:
    parts = found["parts"]
    assert set(parts["extract"]["seconds"]) == {"fill", "forward"}
    assert set(parts["read"]["seconds"]) == {
        "read-cache",
        "read-cache, first epoch",
        "read-cache, held in memory",
        "memory map",
        "zarr",
    }
    assert {"rnn, streamed", "gru, padded in memory"} <= set(parts["train"]["seconds"])
    assert {"1", "4 in a loop", "4 stacked"} <= set(parts["networks"]["seconds"])
    assert set(parts["live"]["seconds"]) == {"from the store", "frozen backbone in the loop", "LoRA"}
    assert all(row["peak megabytes"] > 100 for row in parts["live"]["table"])
    assert parts["extract"]["facts"]["rows"] == 6
    assert parts["train"]["facts"]["rows"] == 64


def test_sizes_follow_from_the_layout(found) -> None:
    rows = {row["form"]: row for row in found["parts"]["size"]["table"]}
    states = "states, bytes a token"
    assert rows["fp32"][states] == pytest.approx(2 * rows["bf16"][states], rel=0.01)
    assert rows["int8"][states] == pytest.approx(0.5 * rows["bf16"][states], rel=0.01)
    assert rows["bf16"][states] == pytest.approx(7 * 512 * 2, rel=0.05), "7 states of 512 numbers, and chunks' tails"
    for row in rows.values():
        arrays = sum(value for name, value in row.items() if "bytes" in name and "together" not in name)
        assert arrays == pytest.approx(row["together, bytes a token"])


def test_sides_take_turns_and_the_first_round_is_not_counted() -> None:
    called: list[str] = []

    def side(name: str, seconds: float):
        return lambda: called.append(name) or seconds

    seconds = alternate({"a": side("a", 1.0), "b": side("b", 4.0)}, repeats=3)
    assert seconds == {"a": [1.0] * 3, "b": [4.0] * 3}
    assert sorted(called) == ["a"] * 4 + ["b"] * 4
    assert called[:4] in (["a", "b", "b", "a"], ["b", "a", "a", "b"]), "who is first turns"
    assert ratio("a / b", seconds["a"], seconds["b"]) == Ratio("a / b", (0.25,) * 3)


def test_the_flat_copy_holds_the_bytes_that_are_read(tmp_path, words_store) -> None:
    from read_cache.bench.read import write_flat
    from read_cache.store.reader import StoreReader

    split = StoreReader(words_store).split("train")
    extents = write_flat(split, tmp_path / "flat")
    flat = np.fromfile(tmp_path / "flat", np.uint8)
    read = [array for part in range(split.parts) for array in split.read_part(part).arrays.values()]
    assert extents[-1][1] == len(flat) == sum(array.nbytes for array in read)
    for (start, end), array in zip(extents, read, strict=True):
        assert flat[start:end].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("speed",), "unknown part 'speed'; known: extract, read"),
        (("size", "--rows", 0), "--rows is 0, expected at least 1"),
        (("size", "--repeats", 0), "--repeats is 0"),
        (("size", "--tokenizer", "nowhere"), "tokenizer folder nowhere does not exist"),
        (("size", "--tokenizer", Path(__file__).parent), "has no tokenizer in"),
        (("size", "--folder", "nowhere"), "folder nowhere does not exist"),
        (("size", "--json", "nowhere/out.json"), "does not exist"),
        (("size", "--task", "colla"), "unknown task 'colla'"),
        (("size", "--shape", "t5-tiny"), "t5-tiny"),
    ],
)
def test_bad_options_end_in_one_message(options, message) -> None:
    done = run_cli("bench", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
