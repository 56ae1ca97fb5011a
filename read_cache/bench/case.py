"""The case that all parts share: a T5's shape with random weights, real rows' lengths, stores of random activations."""

import shutil
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import transformers
from pydantic import Field

from read_cache.backbones import Backbone, open_backbone
from read_cache.config import ExtractConfig
from read_cache.data import BUNDLED_BACKBONE, bundled_backbone
from read_cache.errors import UserError
from read_cache.extraction.encode import EncodedSplit
from read_cache.extraction.fill import open_store
from read_cache.extraction.plan import Plan, encode_rows, plan_encoded
from read_cache.settings import Settings
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.tasks import Task, find_task

ShapeName = Literal["tiny", "t5-base"]
SHAPES: dict[ShapeName, dict[str, int]] = {
    "tiny": {"d_model": 192, "d_kv": 32, "d_ff": 384, "num_layers": 2, "num_heads": 6},
    "t5-base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}
PLAIN = ExtractConfig()
RECOMMENDED = PLAIN.recommended(SHAPES["t5-base"]["d_model"])
PARTS = 16
"""Training parts of a store; 16 of 2600 MB are those of T5-base at 8,192 tokens each."""


class BenchConfig(Settings):
    """Settings of the bench."""

    task: str = "sample-entailment"
    """Task whose rows decide the lengths."""
    dataset: str | None = None
    """Dataset of the task; by default its own."""
    tokenizer: str = ""
    """Folder of the tokenizer; by default the bundled one."""
    shape: ShapeName = "t5-base"
    """Shape of the backbone: tiny or t5-base. Its weights are random."""
    rows: int = Field(600, ge=3)
    """Rows that the backbone runs over, of all splits together; in the part plan, of each split."""
    repeats: int = Field(5, ge=1)
    """Repeats of each side."""
    store_megabytes: int = Field(2600, ge=1)
    """Size of the bf16 store that is read and trained from, in MB."""
    train_batches: int = Field(24, ge=1)
    """Batches in one repeat of training."""
    compile: bool = False
    """Also time a step of READ that torch.compile makes."""


QUICK = BenchConfig(shape="tiny", rows=32, repeats=1, store_megabytes=20, train_batches=2)
"""Settings of a quick run, which shows that every part works."""


class Case:
    """Rows and weights, made on first use in `folder`."""

    def __init__(self, config: BenchConfig, folder: Path, device: str = "cpu") -> None:
        """Raise UserError for an unknown task or a tokenizer folder that is missing."""
        self.config, self.folder, self.device = config, folder, device
        self.task: Task = find_task(config.task)
        self.tokenizer = Path(config.tokenizer) if config.tokenizer else bundled_backbone(BUNDLED_BACKBONE)
        if self.tokenizer is None or not self.tokenizer.is_dir():
            raise UserError(f"tokenizer folder {self.tokenizer} does not exist")

    @cached_property
    def model(self) -> Path:
        """Folder of the shape with random weights in bf16."""
        assert self.tokenizer is not None
        folder = self.folder / self.config.shape
        torch.manual_seed(0)
        transformers.logging.disable_progress_bar()
        ids = {"vocab_size": 32128, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
        config = transformers.T5Config(**SHAPES[self.config.shape], **ids)
        transformers.T5ForConditionalGeneration(config).bfloat16().save_pretrained(folder)
        for path in (*self.tokenizer.glob("tokenizer*.json"), *self.tokenizer.glob("*.model")):
            shutil.copy(path, folder)
        return folder

    @cached_property
    def backbone(self) -> Backbone:
        return open_backbone(str(self.model), "bf16", self.device)

    @cached_property
    def encoded(self) -> dict[str, EncodedSplit]:
        """Every row of every split, in tokens."""
        config = PLAIN.replaced(max_examples=self.config.rows // 3)
        return encode_rows(self.backbone, self.task, self.config.dataset, config)

    def plan(self, config: ExtractConfig, encoded: dict[str, EncodedSplit] | None = None) -> Plan:
        """Return the plan of a store of some rows, by default all."""
        return plan_encoded(self.backbone, self.task, "", encoded or self.encoded, config)


def random_store(case: Case) -> StoreReader:
    """Return a store of the case's training rows, made if it is not there yet; it has `store_megabytes`."""
    folder = StoreFolder(case.folder / "store")
    if not folder.sealed:
        encoded = {"train": case.encoded["train"]}
        plain = case.plan(PLAIN, encoded).manifest
        tokens, size = plain.splits["train"].tokens, sum(array_bytes(plain).values())
        share = min(1, case.config.store_megabytes * 1e6 / size)
        rows = max(1, round(share * plain.splits["train"].examples))
        plan = case.plan(PLAIN.replaced(max_examples=rows, part_tokens=-(-round(share * tokens) // PARTS)), encoded)
        writer, rng = open_store(folder, plan, case.backbone), np.random.default_rng(0)
        assert writer is not None
        pool = rng.standard_normal(1 << 22, dtype=np.float32)
        for split, part in writer.missing_parts():
            buffer = writer.part_buffer(split, part)
            for layer in (layer for array in buffer.arrays.values() for layer in array):
                layer[...] = random_like(layer, pool[rng.integers(len(pool) // 2) :])
            writer.write_part(buffer)
        writer.seal()
    return StoreReader(folder)


def random_like(array: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Return a pool's first values in an array's shape and dtype: bfloat16 states, or weights from 0 to 1."""
    values = np.resize(pool[: array.size], array.shape)
    if array.dtype == np.uint16:
        return (values.view(np.uint32) >> 16).astype(np.uint16)  # the bits of bfloat16
    return (np.abs(values) / 64).astype(array.dtype)
