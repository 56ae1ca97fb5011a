"""Stage two never sees the backbone: checked where it runs, not only where it is written."""

import json

import pytest

from support.processes import run_python

FORBIDDEN = """
import sys

class Forbid:
    names = (
        "transformers", "datasets", "tokenizers", "peft", "read_cache.backbones", "read_cache.extraction",
        "read_cache.live", "read_cache.methods",
    )

    def find_spec(self, name, path=None, target=None):
        if any(name == n or name.startswith(n + ".") for n in self.names):
            raise AssertionError(f"{name} was imported in stage two")

sys.meta_path.insert(0, Forbid())
"""
STAGE_TWO = """
import json

import pytest
from pathlib import Path

import pytest
import read_cache
from read_cache.store.verify import verify_store

networks, out, *stores = sys.argv[1:]
for number, store in enumerate(stores):
    assert list(verify_store(read_cache.open_store(store))) == []
    sizes = {"hidden": 4, "reduction": 4, "matching": 4, "epochs": 1, "batch_size": 8}
    results = read_cache.train(store, Path(out, str(number)), network=json.loads(networks), **sizes)
    found = read_cache.evaluate(store, Path(out, str(number)), baselines=True)
    for result in results.results:
        read_cache.load_network(result.folder)
    repr(results), results._repr_html_()
    print(json.dumps([{row["network"]: row["metric"] for row in found}, {r.network: r.test for r in results.results}]))
"""
NETWORKS = ("read", "read_matching", "ladder", "side_tuning", "layer_probe", "probe")


def test_every_verb_of_stage_two_runs_where_the_backbone_cannot_be_imported(tmp_path, words_store, bert_store) -> None:
    done = run_python(FORBIDDEN + STAGE_TWO, json.dumps(NETWORKS), tmp_path, words_store, bert_store)
    assert done.returncode == 0, done.stderr
    expected = {"untrained backbone", "majority class"}, {"majority class"}
    for line, baselines in zip(done.stdout.splitlines(), expected, strict=True):
        metrics, results = json.loads(line)
        assert len(results) == len(NETWORKS)
        assert {name: metrics[name] for name in results} == pytest.approx(results, abs=1e-3)
        assert metrics.keys() - results.keys() == baselines


def test_the_forbidding_finder_forbids(tmp_path) -> None:
    verbs = (
        'read_cache.extract("t5-tiny-wiki", "sample-sentiment", sys.argv[1])',
        "from read_cache import attach",
        'read_cache.finetune(sys.argv[1], method="full")',
        'read_cache.predict("t5-tiny-wiki", sys.argv[1], ["a text"])',
    )
    program = """
import read_cache
for verb in sys.argv[2:]:
    try:
        exec(verb)
        print("allowed")
    except AssertionError as error:
        print(error)
"""
    done = run_python(FORBIDDEN + program, tmp_path / "nothing", *verbs)
    assert [line.partition(" ")[2] for line in done.stdout.splitlines()] == ["was imported in stage two"] * 4, done


def test_the_store_imports_neither_torch_nor_transformers(words_store) -> None:
    program = """
import sys
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store
store = StoreReader(sys.argv[1])
store.check_plan()
assert list(verify_store(store)) == []
print(sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""
    done = run_python(program, words_store)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = """
import sys, read_cache
assert "train" in dir(read_cache)
print(sorted({"torch", "transformers", "datasets", "zarr", "numpy", "pandas", "peft"} & set(sys.modules)))
"""
    done = run_python(program)
    assert done.stdout.strip() == "[]", done.stderr
