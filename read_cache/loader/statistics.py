"""Channel means and deviations of the normalised states over training rows: one short read, shared by all networks."""

import torch

from read_cache.loader.batch import StackBatch, Statistics
from read_cache.loader.batches import SplitBatches

EXAMPLES = 1024


def channel_statistics(batches: SplitBatches) -> tuple[Statistics, Statistics]:
    """(encoder, decoder) statistics over the first `EXAMPLES` examples of the store, whose order is random."""
    form, place = batches.collator.form, (batches.split.manifest.backbone.width, batches.collator.device)
    encoder, decoder = _Moments(form.encoder_layers, *place), _Moments(form.decoder_layers, *place)
    seen = 0
    for batch in batches.in_order():
        encoder.add(batch.encoder)
        decoder.add(batch.decoder)
        seen += len(batch.final)
        if seen >= EXAMPLES:
            break
    return encoder.statistics(), decoder.statistics()


class _Moments:
    """Sums and sums of squares in float64, padding left out, a layer at a time."""

    def __init__(self, layers: tuple[int, ...], width: int, device: str) -> None:
        self.layers, self.count = layers, 0
        self.sums, self.squares = torch.zeros(2, len(layers) + 1, width, dtype=torch.float64, device=device)

    def add(self, stack: StackBatch) -> None:
        for layer, states in enumerate(stack.whole_layers()):
            values = states[stack.real].double()
            self.sums[layer] += values.sum(0)
            self.squares[layer] += values.square().sum(0)
        self.count += len(values)

    def statistics(self) -> Statistics:
        mean = self.sums / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return Statistics(mean.float(), variance.sqrt().float(), self.layers)
