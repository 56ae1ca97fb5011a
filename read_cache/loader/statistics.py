"""Channel means and deviations of normalised states over training rows: one short read, shared by all networks."""

import torch

from read_cache.loader.batch import StackBatch, Statistics
from read_cache.loader.batches import SplitBatches

EXAMPLES = 1024


def channel_statistics(batches: SplitBatches) -> dict[str, Statistics]:
    """Return each stack's statistics over the first `EXAMPLES` examples of the store, whose order is random."""
    moments: dict[str, _Moments] = {}
    seen = 0
    for batch in batches.in_order():
        for name, stack in batch.stacks.items():
            width = batches.split.manifest.backbone.stack(name).width
            moments.setdefault(name, _Moments(stack, width)).add(stack)
        seen += len(batch)
        if seen >= EXAMPLES:
            break
    return {name: sums.statistics() for name, sums in moments.items()}


class _Moments:
    """Sums and sums of squares in float64, without padding, a layer at a time."""

    def __init__(self, stack: StackBatch, width: int) -> None:
        self.layers, self.count = stack.layers, 0
        shape, device = (2, len(stack.layers) + 1, width), stack.values.device
        self.sums, self.squares = torch.zeros(shape, dtype=torch.float64, device=device)

    def add(self, stack: StackBatch) -> None:
        for layer, states in enumerate(stack.whole_layers()):
            values = states[stack.real].double()
            self.sums[layer] += values.sum(0)
            self.squares[layer] += values.square().sum(0)
        self.count += int(stack.real.sum())

    def statistics(self) -> Statistics:
        mean = self.sums / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return Statistics(mean.float(), variance.sqrt().float(), self.layers)
