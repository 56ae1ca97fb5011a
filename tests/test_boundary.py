"""Stage two never sees the backbone: checked where it runs, not only where it is written."""

import json
import subprocess
import sys

from conftest import run_cli

FORBIDDEN = """
class Forbid:
    names = ("transformers", "datasets", "tokenizers", "read_cache.extract", "read_cache.backbones")
    def find_spec(self, name, path=None, target=None):
        if any(name == n or name.startswith(n + ".") for n in self.names):
            raise AssertionError(f"{name} was imported in stage two")
sys.meta_path.insert(0, Forbid())
"""


def test_train_and_evaluate_run_where_the_backbone_cannot_be_imported(tmp_path, words_store) -> None:
    options = ("--hidden", 8, "--epochs", 1, "--json")
    trained = run_cli("train", "--store", words_store, "--out", tmp_path / "run", *options, code=FORBIDDEN)
    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)[0]
    evaluated = run_cli(
        "evaluate", "--store", words_store, "--network", result["folder"], "--baselines", "--json", code=FORBIDDEN
    )
    assert evaluated.returncode == 0, evaluated.stderr
    rows = json.loads(evaluated.stdout)["results"]
    assert rows[0]["metric"] == result["test"]
    assert {row["network"] for row in rows[1:]} == {"untrained backbone", "majority class", "linear probe"}


def test_the_forbidding_finder_forbids(words_store, tmp_path) -> None:
    extracted = run_cli("extract", "--model", "t5-tiny-wiki", "--task", "cola", "--store", tmp_path, code=FORBIDDEN)
    assert "was imported in stage two" in extracted.stderr


def test_the_store_imports_neither_torch_nor_transformers(words_store) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from read_cache.store.reader import StoreReader\n"
        "from read_cache.store.verify import verify_store\n"
        f"assert list(verify_store(StoreReader(Path({str(words_store)!r})))) == []\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
