"""A reader of the documentation."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

from read_cache.backbones import FAMILIES
from read_cache.engines import ENGINES
from read_cache.methods.base import METHODS
from read_cache.networks.base import NETWORKS
from read_cache.scoring.choose import HEADS
from support.backbones import SHAPE, wordpiece
from support.pages import Reader

PAIRS = [
    {"sentence1": "a quiet town", "sentence2": "a town that is quiet", "label": 1},
    {"sentence1": "the old river", "sentence2": "people work near the sea", "label": 0},
    {"sentence1": "the river runs past", "sentence2": "many people live near", "label": 0},
]


def before_readme() -> dict[str, Any]:
    """A tiny BERT under the name of the packaged MiniLM, a few rows of MRPC, and the model in memory."""
    torch.manual_seed(0)
    tokenizer = wordpiece()
    tokenizer.save_pretrained("minilm-l6")
    BertModel(BertConfig(**SHAPE, vocab_size=len(tokenizer), max_position_embeddings=128)).save_pretrained("minilm-l6")
    Path("glue/mrpc").mkdir(parents=True)
    for split in ("train", "validation"):
        Path(f"glue/mrpc/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS * 4))
    model = AutoModel.from_pretrained("minilm-l6", dtype=torch.bfloat16, attn_implementation="eager")
    return {"model": model.eval()}


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"), {"README": before_readme})


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Leave no network, method, head, family or engine of a page behind."""
    registries: list[dict[str, Any]] = [NETWORKS, METHODS, HEADS, FAMILIES, ENGINES]
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)
