"""Channel means and deviations of the normalised states over training rows: one short read, shared by all networks."""

import torch

from read_cache.networks.batch import StackBatch, Statistics
from read_cache.train.batches import SplitBatches

EXAMPLES = 1024


def channel_statistics(batches: SplitBatches) -> tuple[Statistics, Statistics]:
    """(encoder, decoder) statistics over the first `EXAMPLES` examples of the store, whose order is random."""
    form, seen = batches.collator.form, 0
    encoder, decoder = _Moments(form.encoder_layers), _Moments(form.decoder_layers)
    for batch in batches.in_order():
        encoder.add(batch.encoder)
        decoder.add(batch.decoder)
        seen += len(batch.final)
        if seen >= EXAMPLES:
            break
    return encoder.statistics(), decoder.statistics()


class _Moments:
    """Sums and sums of squares in float64, padding left out."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.count, self.sum, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, stack: StackBatch) -> None:
        values = stack.whole_states()[:, stack.real].double()
        self.count += values.shape[1]
        self.sum = self.sum + values.sum(1)
        self.squares = self.squares + values.square().sum(1)

    def statistics(self) -> Statistics:
        mean = self.sum / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return Statistics(mean.float(), variance.sqrt().float(), self.layers)
