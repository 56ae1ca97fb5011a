"""The standard case: a T5's shape with random weights, and the lengths of real rows by a real tokenizer."""

import dataclasses
import shutil
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
import transformers

from read_cache.backbones.t5 import Backbone, load_tokenizer
from read_cache.data import BUNDLED_BACKBONE, bundled_backbone
from read_cache.errors import UserError
from read_cache.extract.config import ExtractConfig
from read_cache.extract.encode import EncodedSplit, Encoder
from read_cache.extract.plan import PlannedSplit, make_manifest, plan_split
from read_cache.extract.rows import load_rows, source_name
from read_cache.extract.splits import protocol_splits
from read_cache.store.manifest import BackboneInfo, Manifest
from read_cache.tasks import Task, find_task

ShapeName = Literal["t5-small", "t5-base", "t5-large"]
SHAPES: dict[ShapeName, dict[str, int]] = {
    "t5-small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
}


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """How much is measured, and on what."""

    task: str = "sample-entailment"
    dataset: str | None = None
    """Where the task's rows are; None is its own source."""
    tokenizer: Path | None = None
    """A folder with tokenizer.json or spiece.model; None is the bundled one."""
    shape: ShapeName = "t5-base"
    rows: int = 600
    """Rows the backbone runs over, of all splits together."""
    repeats: int = 5
    store_megabytes: int = 2600
    """The synthetic store that `read` and `train` read."""
    parts: int = 16
    """Parts of that store; 16 of 2600 MB are T5-base's default of 8,192 tokens each."""
    train_batches: int = 24
    counts: tuple[int, ...] = (4, 16, 32)
    """How many networks `networks` trains in one pass."""
    peaks: bool = True
    """Whether `read` and `live` measure peak memory too, each side in a process of its own."""
    device: str = "cpu"
    """Where `networks` trains them; the other parts run on the processor."""

    def __post_init__(self) -> None:
        for name in ("rows", "repeats", "store_megabytes", "train_batches"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")
        if self.shape not in SHAPES:
            raise UserError(f"--shape {self.shape!r} is none of {', '.join(SHAPES)}")


QUICK = BenchConfig(
    shape="t5-small", rows=32, repeats=2, store_megabytes=120, parts=12, train_batches=4, counts=(4,), peaks=False
)
"""All parts within a minute on two cores."""


class Case:
    """What the parts of the bench share. Rows, tokenizer and weights are made on first use, in `folder`."""

    def __init__(self, config: BenchConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.task: Task = find_task(config.task)
        self.extract = ExtractConfig(
            max_examples=max(1, config.rows // 3),
            # a part of the default size would hold all the rows of a short run, and nothing could overlap
            part_tokens=min(ExtractConfig.part_tokens, 16 * config.rows),
            batch_tokens=min(ExtractConfig.batch_tokens, 16 * config.rows),
        )
        self.t5 = transformers.T5Config(
            **SHAPES[config.shape],
            vocab_size=32128,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
        self.model_folder = folder / config.shape
        self.t5.save_pretrained(self.model_folder)
        source = config.tokenizer or bundled_backbone(BUNDLED_BACKBONE)
        if source is None or not source.is_dir():
            raise UserError(f"tokenizer folder {source} does not exist")
        for path in (*source.glob("tokenizer*.json"), *source.glob("*.model")):
            shutil.copy(path, self.model_folder)

    @cached_property
    def backbone(self) -> Backbone:
        """The shape with random weights, in bf16."""
        torch.manual_seed(0)
        transformers.logging.disable_progress_bar()
        transformers.T5ForConditionalGeneration(self.t5).bfloat16().save_pretrained(self.model_folder)
        return Backbone(str(self.model_folder), "bf16")

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """The tokenizer whose lengths are used."""
        return load_tokenizer(self.model_folder, str(self.config.tokenizer or BUNDLED_BACKBONE))

    @cached_property
    def encoder(self) -> Encoder:
        """Rows to tokens."""
        return Encoder(self.task, self.tokenizer, 0, self.extract.max_source_length)

    @cached_property
    def encoded(self) -> dict[str, EncodedSplit]:
        """Every row of every split, in tokens."""
        rows = protocol_splits(load_rows(self.task, self.config.dataset), self.task.protocol)
        return {split: self.encoder.encode(of_split, split) for split, of_split in rows.items()}

    def plan(self, encoded: dict[str, EncodedSplit], config: ExtractConfig) -> tuple[Manifest, dict[str, PlannedSplit]]:
        """The layout of a store of these rows, made without the backbone."""
        splits = {split: plan_split(of_split, config) for split, of_split in encoded.items()}
        manifest = make_manifest(
            config,
            self.task,
            source_name(self.task, self.config.dataset),
            self._info(),
            "",
            self.encoder.label_ids,
            {split: planned.plan_arrays() for split, planned in splits.items()},
            {split: planned.layout for split, planned in splits.items()},
        )
        return manifest, splits

    def _info(self) -> BackboneInfo:
        t5, layers = self.t5, self.t5.num_layers
        return BackboneInfo(self.config.shape, "random", "", "t5", t5.d_model, layers, layers, t5.num_heads, 0)
