"""Token batches of a store's rows: the same rows, order and targets as its activations, without reading those."""

from collections.abc import Iterator, Sequence

import numpy as np

from read_cache.backbones import Backbone, TokenBatch
from read_cache.loader.batches import make_collator
from read_cache.loader.collate import pad
from read_cache.loader.order import epoch_batches, store_batches
from read_cache.methods.base import LiveBatch
from read_cache.store.reader import StoreReader


class TokenBatches:
    """Batches of one split, made from the arrays of the store's plan; `loader.SplitBatches` is its equal."""

    def __init__(self, store: StoreReader, split: str, backbone: Backbone, batch_size: int, window: int = 4) -> None:
        """Batches for a backbone, on its device."""
        self.split, self.backbone = store.split(split), backbone
        self.batch_size, self.window = batch_size, window
        self.collator = make_collator(store, backbone.device, layers=(), positions="all")

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.split.examples // self.batch_size)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[LiveBatch]:
        """Yield every example once, shuffled, from batch `start` on; the order depends on (seed, epoch) alone."""
        layout = self.split.layout
        order = epoch_batches(layout.part_start, layout.length, self.batch_size, self.window, seed, epoch)
        return self._batches(order[start:])

    def in_order(self) -> Iterator[LiveBatch]:
        """Yield every example once, from short to long rows: their batches have the least padding."""
        by_length = np.argsort(self.split.layout.length, kind="stable")
        return self._batches([by_length[batch] for batch in store_batches(len(by_length), self.batch_size)])

    def _batches(self, order: Sequence[np.ndarray]) -> Iterator[LiveBatch]:
        spec, backbone = self.split.manifest.backbone, self.backbone
        for rows in order:
            tokens = TokenBatch.of_plan(spec, self.split.plan, rows.tolist(), backbone.pad_token).to(backbone.device)
            padded = pad(self.split, rows, {}, self.collator.format)
            real = {name: stack.mask for name, stack in tokens.stacks.items()}
            yield LiveBatch(tokens, self.collator.targets(padded, real))
