"""Training on the sample's store, whose splits are held where those of the whole store will be."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from read_cache.config import Place, RunConfig
from read_cache.device import free_device_bytes
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches
from read_cache.loader.order import epoch_batches, store_batches
from read_cache.loader.tiers import SplitSize, Tier, assign_tiers
from read_cache.planning.extraction import Planned
from read_cache.store.folder import StoreFolder
from read_cache.store.layout import Layout
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader
from read_cache.store.schema import activation_arrays
from read_cache.training.from_store import FromStore
from read_cache.training.loop import Progress
from read_cache.training.network_config import NetworkConfig
from read_cache.training.run import Prepared, train_networks

STEPS = 32
"""Training steps that are timed, at least, if the sample has so many in ten epochs."""


def train_sample(
    folder: Path, planned: Planned, networks: Sequence[NetworkConfig], run: RunConfig, place: Place
) -> tuple[dict[str, float], Tier]:
    """Train a few epochs on `folder`/store; return seconds of the whole run by work, and the training split's tier.

    Times are scaled by padded tokens; the last one is the run's sum. Raises UserError.
    """
    started, stamps = time.perf_counter(), list[tuple[str, float]]()

    def stamp(event: str) -> Callable[..., None]:
        return lambda *_: stamps.append((event, time.perf_counter()))

    setup = SampleSetup(StoreFolder(folder / "store"), whole=planned.manifest, validated=stamp("validated"))
    progress = Progress(begin=stamp("begin"), batch=stamp("batch"), epoch=stamp("epoch"))
    store, whole = StoreReader(setup.folder), planned.layouts
    sample = {name: store.split(name).layout for name in store.manifest.splits}
    epochs = 1 + min(10, max(3, -(-STEPS // -(-len(sample["train"].length) // run.batch_size))))
    short = run.replaced(epochs=epochs, patience=epochs, halving=0)
    train_networks(setup, networks, short, folder / "networks", place, progress)
    rates, begun = list[tuple[float, float, float]](), stamps[0][1]
    last = begun
    for (_, batch), (_, validated), (event, now) in zip(stamps, stamps[1:], stamps[2:], strict=False):
        if event == "epoch":
            steps = trained_tokens(sample["train"], run, len(rates))
            validation = evaluated_tokens(sample["validation"], run)
            rates.append(((batch - last) / steps, (validated - batch) / validation, now - validated))
            last = now
    # the first epoch maps the files and is the first with batches of each shape
    step, evaluation, checkpoint = (statistics.median(rate) for rate in zip(*rates[1:], strict=True))
    seconds = {
        "start of training": begun - started,
        "training epoch": step * trained_tokens(whole["train"], run, 0),
        "validation": evaluation * evaluated_tokens(whole["validation"], run),
        "checkpoint": checkpoint,
        "test": evaluation * evaluated_tokens(whole["test"], run) if "test" in whole else 0.0,
    }
    epoch = seconds["training epoch"] + seconds["validation"] + checkpoint
    seconds["training"] = seconds["start of training"] + run.epochs * epoch + seconds["test"]
    return seconds, setup.tiers["train"]


def trained_tokens(layout: Layout, run: RunConfig, epoch: int) -> int:
    """Return the padded tokens of an epoch's batches."""
    order = epoch_batches(layout.part_start, layout.length, run.batch_size, run.window, run.order_seed, epoch)
    return _padded(layout, order)


def evaluated_tokens(layout: Layout, run: RunConfig) -> int:
    """Return the padded tokens of an evaluation's batches."""
    return _padded(layout, store_batches(len(layout.length), run.batch_size))


def _padded(layout: Layout, batches: Iterable[np.ndarray]) -> int:
    length = next(iter(layout.selected.values()), layout.length)
    return sum(len(batch) * int(length[batch].max()) for batch in batches)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSetup(FromStore):
    """A `Setup` for the sample that holds its splits where those of the whole store will be."""

    whole: Manifest
    validated: Callable[[], None]
    """Called after the last batch of each validation."""
    tiers: dict[str, Tier] = dataclasses.field(default_factory=dict)
    """By split; filled by `prepare`."""

    def prepare(self, networks: Sequence[NetworkConfig], run: RunConfig, place: Place) -> Prepared:
        """Return learners as for training. Raises UserError, also if the whole store's parts do not fit into memory."""
        prepared = super().prepare(networks, run, place)
        splits = {name: split for name, split in prepared.splits.items() if isinstance(split, SplitBatches)}
        sizes = {name: whole_size(self.whole, name, split) for name, split in splits.items()}
        self.tiers.update(assign_tiers(sizes, run.window, place.memory * 1e9, free_device_bytes(place.device)))
        for name, split in splits.items():
            split.tier = self.tiers[name]
        batches = splits["validation"].in_order

        def in_order() -> Iterator[Batch]:
            yield from batches()
            self.validated()

        splits["validation"].in_order = in_order  # type: ignore[method-assign]
        return prepared


def whole_size(whole: Manifest, name: str, sample: SplitBatches) -> SplitSize:
    """Return what a split of the whole store takes of the arrays and layers that the sample's batches read."""
    read, layers = sample.collator.arrays, sample.collator.format.array_layers
    arrays = [spec for spec in activation_arrays(whole.backbone, whole.format) if spec.name in read]
    part = sum(whole.shard(spec, name).stride * len(layers(spec.name)) for spec in arrays)
    return SplitSize(part, whole.splits[name].parts)
