"""Channel means and deviations of normalised states over training rows: one short read, shared by all networks."""

import torch

from read_cache.loader.batch import Statistics
from read_cache.loader.batches import SplitBatches

EXAMPLES = 1024


def channel_statistics(batches: SplitBatches) -> dict[str, Statistics]:
    """Return each stack's statistics over the first `EXAMPLES` examples of the store, whose order is random.

    Sums and sums of squares are float64, without padding, a layer at a time.
    """
    spec, format, device = batches.split.manifest.backbone, batches.collator.format, batches.collator.device
    moments = {
        name: torch.zeros(2, len(layers) + 1, spec.stack(name).width, dtype=torch.float64, device=device)
        for name, layers in format.layers.items()
    }
    counts, seen = dict.fromkeys(moments, 0), 0
    for batch in batches.in_order():
        for name, stack in batch.stacks.items():
            sums, squares = moments[name]
            for index in range(len(stack.values)):
                values = stack.whole_state(index)[stack.real].double()
                sums[index] += values.sum(0)
                squares[index] += values.square().sum(0)
            counts[name] += int(stack.real.sum())
        seen += len(batch)
        if seen >= EXAMPLES:
            break
    statistics = {}
    for name, moment in moments.items():
        mean, mean_square = moment / counts[name]
        variance = (mean_square - mean.square()).clamp(min=0)
        statistics[name] = Statistics(mean.float(), variance.sqrt().float(), format.layers[name])
    return statistics
