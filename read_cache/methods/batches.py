"""Token batches of a store's rows, with the order and targets of its activations, which are not read."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from read_cache.backbones import Backbone, TokenBatch, open_backbone
from read_cache.errors import UserError
from read_cache.loader.batches import make_collator
from read_cache.loader.collate import PaddedExamples, pad
from read_cache.loader.order import epoch_batches, store_batches
from read_cache.methods.base import LiveBatch
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.store.schema import ComputeDtype
from read_cache.store.spec import IMPORTED


class TokenBatches:
    """Batches of one split, from the arrays of the store's plan, with the interface of `loader.SplitBatches`."""

    def __init__(self, store: StoreReader, split: str, backbone: Backbone, batch_size: int, window: int = 4) -> None:
        self.split, self.backbone = store.split(split), backbone
        self.batch_size, self.window = batch_size, window
        self.collator = make_collator(store, backbone.device, layers=()).at_all_positions()

    def __len__(self) -> int:
        return -(-self.split.examples // self.batch_size)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Any]:
        layout = self.split.layout
        order = epoch_batches(layout.part_start, layout.length, self.batch_size, self.window, seed, epoch)
        for number in range(start, len(order)):
            yield self.batch(order[number], (seed, epoch, number))

    def in_order(self) -> Iterator[Any]:
        """Yield every example once, from short to long rows: their batches have the least padding."""
        by_length = np.argsort(self.split.layout.length, kind="stable")
        for batch in store_batches(len(by_length), self.batch_size):
            yield self.batch(by_length[batch])

    def batch(self, rows: np.ndarray, step: tuple[int, ...] = ()) -> Any:
        """Return a batch of example numbers. In training, `step` is (seed, epoch, batch number)."""
        tokens, padded = self.padded(rows)
        real = {name: stack.mask for name, stack in tokens.stacks.items()}
        return LiveBatch(tokens, self.collator.targets(padded, real))

    def padded(self, rows: np.ndarray) -> tuple[TokenBatch, PaddedExamples]:
        """Return the tokens of examples, on the backbone's device, and the other arrays of their plan."""
        spec, backbone = self.split.manifest.backbone, self.backbone
        tokens = TokenBatch.of_plan(spec, self.split.plan, rows.tolist(), backbone.pad_token)
        return tokens.to(backbone.device), pad(self.split, rows, {}, self.collator.format)


def store_backbone(manifest: Manifest, device: str = "cpu", dtype: ComputeDtype = "fp32") -> Backbone:
    """Return the backbone that filled a store. Raises UserError if its files have changed."""
    spec = manifest.backbone
    if spec.family == IMPORTED:
        raise UserError(
            f"the states of {spec.name} were imported, so there is no backbone to run: for live methods, extract a "
            "store of the same rows"
        )
    of_hub = spec.revision not in ("bundled", "local", "packaged")
    backbone = open_backbone(spec.name, dtype, device, spec.revision if of_hub else None)
    if backbone.digest != spec.digest:
        raise UserError(
            f"model {spec.name} in {backbone.folder} is not the one that filled the store of {manifest.task.name}: "
            "restore its files, or extract the store again"
        )
    return backbone
