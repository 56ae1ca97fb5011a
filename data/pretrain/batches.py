"""Training batches as a pure function of the step, so that a resumed run sees what an uninterrupted one would."""

from pathlib import Path

import numpy as np
import torch

from .config import PretrainConfig
from .spans import corrupt_spans


class SpanBatches:
    """Span-corrupted windows of a flat token file, in a new order every epoch."""

    def __init__(self, path: Path, config: PretrainConfig, first_sentinel: int, eos: int) -> None:
        ids = np.memmap(path, dtype=np.uint16, mode="r")
        self.windows_NS = ids[: len(ids) // config.window * config.window].reshape(-1, config.window)
        self.config, self.first_sentinel, self.eos = config, first_sentinel, eos

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Source [B, S] and target [B, T] token ids (int64) of `step`."""
        size, seed = self.config.batch_size, self.config.seed
        a_epoch = len(self.windows_NS) // size
        order = np.random.default_rng((seed, step // a_epoch)).permutation(len(self.windows_NS))
        rows = order[step % a_epoch * size :][:size]
        rng = np.random.default_rng((seed, step, 1))
        source, target = corrupt_spans(self.windows_NS[rows].astype(np.int64), rng, self.first_sentinel, self.eos)
        return torch.from_numpy(source), torch.from_numpy(target)
