"""Backbones as users load them, stores of one backbone, and networks bound to these, for tests of what is attached."""

from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from conftest import make_store
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.statistics import channel_statistics
from read_cache.networks.config import ReadConfig
from read_cache.networks.read import build_network
from read_cache.networks.saved import NetworkRecord, TrainedNetwork
from read_cache.store.reader import StoreReader
from read_cache.train.grid import backbone_shape

FP32_NOISE = 1e-4  # one example alone against the same one in a padded batch: products are summed in another order
BF16_NOISE = 0.05
TEXTS = ["the old river runs past a quiet town", "people live", "a quiet town where many people live and work near sea"]

STORES = {
    "words": ("words", {"dtype": "fp32"}),
    "heads": ("words", {"dtype": "fp32", "attention": "heads"}),
    "layers": ("words", {"dtype": "fp32", "layers": "1"}),
    "scores": ("sample-similarity", {"dtype": "fp32"}),
    "open": ("open", {"dtype": "fp32"}),
    "bf16": ("words", {}),
    "int8": ("words", {"dtype": "int8", "attention_dtype": "uint8"}),
    "rank8": ("words", {"dtype": "int8", "rank": 8}),
}
"""Two tasks, an open target, and every form."""


def load(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A backbone as a user of transformers loads it."""
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")


def tokens(folder: Path, texts: list[str] = TEXTS) -> dict[str, torch.Tensor]:
    """A padded batch."""
    made = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def network_of(store: StoreReader, config: ReadConfig, trained: bool = True) -> TrainedNetwork:
    """A network with random weights that is bound to the store; untrained its correction is zero."""
    manifest = store.manifest
    shape = backbone_shape(manifest, config.layers)
    network = build_network(config, shape, seed=2).eval()
    network.set_statistics(*channel_statistics(SplitBatches(store.split("train"), make_collator(store), 8)))
    if trained:
        torch.nn.init.normal_(network.U, std=0.5, generator=torch.Generator().manual_seed(1))
    record = NetworkRecord(
        name=f"{config.cell}-{config.attention}", read=config, shape=shape, backbone=manifest.backbone.name,
        backbone_digest=manifest.backbone.digest, store_digest=manifest.digest, task=manifest.task,
        label_ids=manifest.label_ids, max_source_length=manifest.max_source_length, form=manifest.form,
        compute_dtype=manifest.compute_dtype, training={},
    )  # fmt: skip
    return TrainedNetwork(network, record, store.calibration)


def make_stores(path: Path, models: dict[str, Path], rows_folder: Path, *names: str) -> dict[str, StoreReader]:
    """Some of `STORES` of one backbone."""
    found = {}
    for name in names:
        task, settings = STORES[name]
        toml = task if task.startswith("sample-") else str(rows_folder / f"{task}.toml")
        rows = rows_folder / ("scores" if task.startswith("sample-") else "words")
        found[name] = make_store(path / name, models["tied"], toml, rows, **settings)
    return found
