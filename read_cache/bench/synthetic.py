"""A store of random activations: real layout, real lengths, no backbone."""

from pathlib import Path

import numpy as np

from read_cache.bench.case import Case
from read_cache.extract.config import ExtractConfig
from read_cache.extract.encode import EncodedSplit
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.store.writer import StoreWriter, create_store

VALIDATION_ROWS = 8
"""No store is without a validation split; nothing here reads it."""


def write_synthetic_store(path: Path, case: Case, megabytes: float, parts: int) -> StoreReader:
    """A sealed bf16 store of about that size and at least that many training parts; its rows are drawn from the case's.

    Raises StoreError.
    """
    rng = np.random.default_rng(0)
    train = case.encoded["train"]
    length = np.array([len(ids) for ids in train.input_ids])
    chosen = rng.integers(len(length), size=max(1, round(megabytes * 1e6 / _bytes_a_row(case))))
    encoded = {
        "train": _take(train, chosen),
        "validation": _take(case.encoded["validation"], np.zeros(VALIDATION_ROWS, np.int64)),
    }
    tokens = int(length[chosen].sum())
    manifest, splits = case.plan(encoded, ExtractConfig(part_tokens=-(-tokens // parts)))
    assert manifest.trie is not None or case.task.target
    candidates = manifest.trie.tokens if manifest.trie else np.arange(case.t5.vocab_size)
    head = (candidates, rng.standard_normal((len(candidates), case.t5.d_model), dtype=np.float32) * 0.02)
    folder = StoreFolder(path)
    folder.begin(manifest)
    create_store(folder, manifest, {name: split.plan_arrays() for name, split in splits.items()}, head, None)
    writer = StoreWriter(folder, manifest)
    values = _Values(rng)
    for split, part in writer.missing_parts():
        buffer = writer.part_buffer(split, part)
        for array in buffer.arrays.values():
            for layer in array:
                layer[...] = values.like(layer)
        writer.write_part(buffer)
    writer.seal()
    return StoreReader(path)


def _bytes_a_row(case: Case) -> float:
    """Bytes that a training row takes, on average."""
    manifest, splits = case.plan({"train": case.encoded["train"]}, ExtractConfig())
    return sum(array_bytes(manifest).values()) / len(splits["train"].order)


def _take(encoded: EncodedSplit, rows: np.ndarray) -> EncodedSplit:
    return EncodedSplit(
        [encoded.input_ids[row] for row in rows],
        [encoded.nodes[row] for row in rows],
        encoded.label[rows],
        encoded.score[rows],
        0,
    )


class _Values:
    """Random values at the speed of a copy: slices of one pool, from random places."""

    POOL = 1 << 22

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        states = rng.standard_normal(self.POOL, dtype=np.float32)
        self.pools: dict[np.dtype, np.ndarray] = {
            np.dtype(np.uint16): (states.view(np.uint32) >> 16).astype(np.uint16),  # the bits of bfloat16
            np.dtype(np.float16): rng.random(self.POOL, dtype=np.float32).astype(np.float16) / 64,
        }

    def like(self, array: np.ndarray) -> np.ndarray:
        """Values of an array's shape and dtype: states in bf16, attention weights in fp16."""
        pool = np.roll(self.pools[array.dtype], self.rng.integers(self.POOL))
        return np.resize(pool, array.shape)
