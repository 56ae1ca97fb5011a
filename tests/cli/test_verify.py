"""`read-cache verify`: every finding of every store, exit code 1 if there is one, and nothing changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zarr

from support.files import flip
from support.processes import contents, run
from support.spoil import HIDDEN, cut, flipped, replace

ARRAY = "arrays.zarr/train/encoder/hidden"
CHUNK, NAMED = HIDDEN.format(part=2), "train/encoder/hidden/c/0/2/0"
HEAD = "arrays.zarr/head/weight/c/0/0"
PLAN = "arrays.zarr/validation/encoder/length/c/0"
FINDINGS: list[tuple[str, str, str, Callable[[bytes], bytes] | None]] = [
    ("chunk truncated", CHUNK, f"{NAMED} has ", cut),
    ("chunk missing", CHUNK, f"{NAMED} is missing", None),
    ("chunk with a flipped bit", CHUNK, f"{NAMED}: the checksum of layer", flipped),
    ("array's metadata cut", f"{ARRAY}/zarr.json", "train/encoder/hidden", cut),
    ("head missing", HEAD, "head/weight", None),
    ("head with a flipped bit", HEAD, "head/weight", flipped),
    ("plan with a flipped bit", PLAN, "validation/encoder/length", flipped),
    ("plan missing", PLAN, "validation/encoder/length", None),
    ("manifest cut", "manifest.json", "manifest.json is damaged", cut),
    ("manifest of another schema", "manifest.json", "schema version 99", lambda _: b'{"schema_version": 99}'),
    ("not sealed", "manifest.json", "no finished store", None),
]


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Verify paths: the exit code, findings by store from --json, and the lines on stderr. Nothing is changed."""

    def verify(*paths: object) -> tuple[object, dict[str, list[str]], str]:
        before = [contents(Path(str(path))) for path in paths if str(path)]
        code, plain, _ = run(["verify", *paths], monkeypatch, capsys)
        again, out, err = run(["verify", *paths, "--json"], monkeypatch, capsys)
        found = json.loads(out)
        assert again == code
        assert plain.splitlines() == [f"{path}: {line}" for path, lines in found.items() for line in lines]
        assert [contents(Path(str(path))) for path in paths if str(path)] == before
        return code, found, err

    return verify


@pytest.mark.parametrize(
    ("name", "says", "change"), [case[1:] for case in FINDINGS], ids=[case[0] for case in FINDINGS]
)
def test_a_fault_is_named(name, says, change, words_store, tmp_path, verify) -> None:
    store = Path(shutil.copytree(words_store, tmp_path / "store"))
    replace(store, name, change((store / name).read_bytes()) if change else None)
    code, found, err = verify(store)
    assert code == 1
    assert list(found) == [str(store)]
    [line] = found[str(store)]
    assert says in line
    assert f"{store}: 1 finding" in err.splitlines()


def test_what_checksums_do_not_show(words_store, tmp_path, verify) -> None:
    """DEFECTS 4: a part's file in place of another's, an edited label, NaN in the head."""
    stores = [Path(shutil.copytree(words_store, tmp_path / name)) for name in ("swapped", "label", "head")]
    shutil.copy(stores[0] / HIDDEN.format(part=1), stores[0] / CHUNK)
    for store, array, place, value in ((stores[1], "train/label", 3, 2), (stores[2], "head/weight", (0, 0), "nan")):
        values = zarr.open_group(store / "arrays.zarr", mode="r+")[array]
        assert isinstance(values, zarr.Array)
        values[place] = float(value) if array.startswith("head") else value
    code, found, _ = verify(tmp_path)
    assert code == 1
    assert {Path(path).name: len(lines) for path, lines in found.items()} == {"swapped": 1, "label": 1, "head": 1}
    for store, says in zip(stores, (NAMED, "labels were changed", "head/weight"), strict=True):
        assert says in found[str(store)][0]


def test_every_finding_of_every_store(words_store, bert_store, tmp_path, verify) -> None:
    """DEFECTS 1: a damaged manifest, an unfinished store and a missing one hide nothing of the others."""
    for name in ("a-manifest", "b-two", "c-begun", "d-good"):
        shutil.copytree(words_store, tmp_path / name)
    shutil.copytree(bert_store, tmp_path / "e-bert")
    (tmp_path / "a-manifest" / "manifest.json").write_bytes(b"{")
    flip(tmp_path / "b-two" / CHUNK, 801)
    (tmp_path / "b-two" / HIDDEN.format(part=0)).unlink()
    (tmp_path / "c-begun" / "manifest.json").rename(tmp_path / "c-begun" / "plan.json")
    code, found, err = verify(tmp_path)
    assert code == 1
    counts = {"a-manifest": 1, "b-two": 2, "c-begun": 1, "d-good": 0, "e-bert": 0}
    assert {Path(path).name: len(lines) for path, lines in found.items()} == counts
    assert f"{tmp_path / 'b-two'}: 2 findings" in err.splitlines()
    assert "its extraction has not ended" in found[str(tmp_path / "c-begun")]

    good, begun, none = (str(tmp_path / name) for name in ("d-good", "c-begun", "none"))
    for paths in ((good, none), (none, good)):
        code, found, _ = verify(*paths)
        assert (code, found[good], len(found[none])) == (1, [], 1)
    for path in (begun, none, ""):
        code, found, _ = verify(path)
        assert (code, list(found), len(found[path])) == (1, [path], 1)


def test_good_stores_have_no_findings(words_store, bert_store, verify) -> None:
    code, found, err = verify(words_store, bert_store, words_store)
    assert (code, found) == (0, {str(words_store): [], str(bert_store): []})
    assert err.count("every chunk is present, intact and finite") == 2
