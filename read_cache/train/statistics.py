"""Channel means and deviations of the normalised states over training rows: one short read, shared by all networks."""

import torch
from torch import Tensor

from read_cache.networks.batch import Statistics
from read_cache.train.batches import SplitBatches

EXAMPLES = 1024


def channel_statistics(batches: SplitBatches) -> tuple[Statistics, Statistics]:
    """(encoder, decoder) statistics over the first `EXAMPLES` examples of the store, whose order is random."""
    encoder, decoder, seen = _Moments(), _Moments(), 0
    for batch in batches.in_order():
        encoder.add(batch.encoder.normed)
        decoder.add(batch.decoder.normed)
        seen += len(batch.final)
        if seen >= EXAMPLES:
            break
    return encoder.statistics(), decoder.statistics()


class _Moments:
    """Sums and sums of squares in float64, padding left out."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, normed_LBSD: Tensor) -> None:
        real = normed_LBSD[-1].abs().sum(-1) > 0  # padding is zero, and no state of a real token is
        values = normed_LBSD[:, real].double()
        self.count += values.shape[1]
        self.sum = self.sum + values.sum(1)
        self.squares = self.squares + values.square().sum(1)

    def statistics(self) -> Statistics:
        mean = self.sum / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return Statistics(mean.float(), variance.sqrt().float())
