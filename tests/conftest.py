"""What the tests share: tiny random backbones of every kind, a small task, and a store made from them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from read_cache.backbones.t5 import Backbone
from read_cache.data import BUNDLED_BACKBONE, bundled_backbone
from read_cache.extract.config import ExtractConfig
from read_cache.extract.extraction import fill_store, open_store
from read_cache.extract.plan import make_plan
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.tasks import find_task

SHARED = Path(os.environ.get("READ_CACHE_SHARED", Path(__file__).parents[2] / "shared"))
SHAPE = {
    "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "dropout_rate": 0.1,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
KINDS = ("tied", "untied", "mt5", "umt5", "byt5")
UNTIED = ("untied", "mt5", "byt5")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_glue() -> Path:
    """The folder of real GLUE rows; tests that need it skip where it is absent."""
    if not (SHARED / "glue").is_dir():
        pytest.skip(f"real GLUE rows are not at {SHARED / 'glue'}")
    return SHARED / "glue"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny random backbones: T5 v1.0 (tied, scaled head), v1.1 (gated, untied), mT5, UMT5 and ByT5."""
    pieces = AutoTokenizer.from_pretrained(bundled_backbone(BUNDLED_BACKBONE))
    folders = {}
    for kind in KINDS:
        torch.manual_seed(7)
        tokenizer = ByT5Tokenizer() if kind == "byt5" else pieces
        size = SHAPE | {"vocab_size": 384 if kind == "byt5" else 8128}
        if kind == "tied":
            model = T5ForConditionalGeneration(T5Config(**size))
        elif kind in ("untied", "byt5"):
            config = T5Config(**size, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
            model = T5ForConditionalGeneration(config)
        elif kind == "mt5":
            model = MT5ForConditionalGeneration(MT5Config(**size, tie_word_embeddings=False))
        else:
            model = UMT5ForConditionalGeneration(UMT5Config(**size))
        if kind in UNTIED:  # their checkpoints hold a head of its own
            model.lm_head.weight = torch.nn.Parameter(torch.randn(size["vocab_size"], 32) * 0.3)
        with torch.no_grad():  # larger weights than the default start, so that attention is far from uniform
            for name, parameter in model.named_parameters():
                if name.endswith(("q.weight", "k.weight", "relative_attention_bias.weight")):
                    parameter.mul_(4)
        folders[kind] = tmp_path_factory.mktemp("models") / kind
        model.save_pretrained(folders[kind])
        tokenizer.save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="module")
def service() -> Iterator[None]:
    """An S3 service on loopback that AWS_ENDPOINT_URL names, with one bucket."""
    from s3 import serving  # a second of imports that few tests need

    with serving():
        yield


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small two-label task of ragged sentences, and one with score labels, as jsonl folders by name."""
    folder = tmp_path_factory.mktemp("rows")
    sentence = "the old river runs past a quiet town where many people live and work near the sea"
    words = sentence.split()
    for task, pair in (("words", False), ("scores", True)):
        (folder / task).mkdir()
        for split, count, offset in (("train", 40, 0), ("validation", 12, 50), ("test", 9, 70)):
            lines = []
            for index in range(count):
                number = index + offset
                text = " ".join(words[(number * 5 + k) % len(words)] for k in range(2 + number * 7 % 13))
                row = {"sentence": text, "label": number % 2}
                if pair:
                    row = {"sentence1": text, "sentence2": text[::-1][:20], "label": number * 3 % 26 / 5}
                lines.append(json.dumps(row) + "\n")
            (folder / task / f"{split}.jsonl").write_text("".join(lines))
    (folder / "words.toml").write_text('template = "words: {sentence}"\nlabels = ["no", "yes it is", "yes it was"]\n')
    (folder / "open.toml").write_text(
        'template = "words: {sentence}"\ntarget = "{sentence}"\nmetric = "token_accuracy"\n'
    )
    return folder


def make_store(path: Path, model: Path | str, task: str, dataset: Path | None, **settings: object) -> StoreReader:
    """Extract a store without the command line."""
    config = ExtractConfig(**{"part_tokens": 200, "batch_tokens": 120, **settings})  # type: ignore[arg-type]
    backbone = Backbone(str(model), config.computed_in)
    plan = make_plan(backbone, find_task(task), str(dataset) if dataset else None, config)
    writer = open_store(StoreFolder(path), plan, backbone)
    if writer is not None:
        fill_store(writer, plan, backbone)
    return StoreReader(path)


@pytest.fixture(scope="session")
def words_store(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path], rows_folder: Path) -> Path:
    """A sealed bf16 store of the `words` task; not to be changed."""
    path = tmp_path_factory.mktemp("stores") / "words"
    make_store(path, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")
    return path


def run_cli(
    *arguments: object, cwd: Path | None = None, code: str = "", **environment: str
) -> subprocess.CompletedProcess:
    """Run `read-cache` in a process of its own, after `code`; returns it with stdout and stderr as text."""
    program = f"import sys\n{code}\nfrom read_cache.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        timeout=300,
        check=False,
    )
