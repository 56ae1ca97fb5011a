"""Training on the sample's store, whose splits are held where those of the whole store will be."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from read_cache.config import Place, RunConfig
from read_cache.device import free_device_bytes
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches, split_size
from read_cache.loader.order import epoch_batches, store_batches
from read_cache.loader.statistics import EXAMPLES, channel_statistics
from read_cache.loader.tiers import SplitSize, Tier, assign_tiers
from read_cache.meters.readings import Readings
from read_cache.networks.base import SideNetwork, find_kind
from read_cache.planning.forecast import Job, Planned, Stage, peaks
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
"""Training steps that are timed, at least, where the sample has so many in ten epochs."""


def train_sample(
    job: Job, planned: Planned, networks: Sequence[NetworkConfig], run: RunConfig, place: Place, started: float
) -> tuple[Stage, str]:
    """Train for a few epochs; return seconds and peak of the whole run, and where the training split will be held.

    `started` is when the stage's imports began, by `time.time`. Raises UserError.
    """
    stamps: list[tuple[str, float]] = []
    progress = Progress(
        begin=lambda task, networks, where: stamps.append(("begin", time.time())),
        batch=lambda task, done, total: stamps.append(("batch", time.time())),
        epoch=lambda task, epoch, epochs, learners: stamps.append(("epoch", time.time())),
    )
    setup = SampleSetup(
        StoreFolder(job.store), whole=planned.manifest, validated=lambda: stamps.append(("validated", time.time()))
    )
    store, whole = StoreReader(setup.folder), planned.layouts
    sample = {name: store.split(name).layout for name in store.manifest.splits}
    epochs = 1 + min(10, max(3, -(-STEPS // -(-len(sample["train"].length) // run.batch_size))))
    short = run.replaced(epochs=epochs, patience=epochs, halving=0)
    results = train_networks(setup, networks, short, job.folder / "networks", place, progress)
    begun, held = stamps[0][1], setup.held[0]
    rates, last = list[tuple[float, float, float]](), begun
    for (_, batch), (_, validated), (kind, now) in zip(stamps, stamps[1:], stamps[2:], strict=False):
        if kind == "epoch":
            tokens = trained_tokens(sample["train"], run, len(rates)), evaluated_tokens(sample["validation"], run)
            rates.append(((batch - last) / tokens[0], (validated - batch) / tokens[1], now - validated))
            last = now
    # the first epoch maps the files and meets every shape for the first time
    step, evaluation, checkpoint = (statistics.median(rate) for rate in zip(*rates[1:], strict=True))
    examples = [min(EXAMPLES, len(layouts["train"].length)) for layouts in (whole, sample)]
    seconds = {
        "start of training": begun - started + held.statistics_seconds * (examples[0] / examples[1] - 2),
        "training epoch": step * trained_tokens(whole["train"], run, 0),
        "validation": evaluation * evaluated_tokens(whole["validation"], run),
        "checkpoint": checkpoint,
        "test": evaluation * evaluated_tokens(whole["test"], run) if "test" in whole else 0.0,
    }
    epoch = seconds["training epoch"] + seconds["validation"] + checkpoint
    seconds["training"] = seconds["start of training"] + run.epochs * epoch + seconds["test"]
    return Stage(seconds, peaks(Readings.from_json(results[0].readings), held.larger)), held.tiers["train"]


def trained_tokens(layout: Layout, run: RunConfig, epoch: int) -> int:
    """Return the padded tokens of an epoch's batches."""
    order = epoch_batches(layout.part_start, layout.length, run.batch_size, run.window, run.order_seed, epoch)
    return _padded(layout, order)


def evaluated_tokens(layout: Layout, run: RunConfig) -> int:
    """Return the padded tokens of an evaluation's batches."""
    return _padded(layout, store_batches(len(layout.length), run.batch_size))


def _padded(layout: Layout, batches: Iterable[np.ndarray]) -> int:
    return sum(len(batch) * int(layout.length[batch].max()) for batch in batches)


@dataclasses.dataclass(frozen=True)
class Held:
    """Where the splits of the whole store are held."""

    tiers: dict[str, Tier]
    larger: int
    """Bytes beside the device that the whole store takes more than the sample."""
    statistics_seconds: float
    """Of the sample's channel statistics; 0 for networks that need none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSetup(FromStore):
    """A `Setup` for the sample."""

    whole: Manifest
    """Of the whole store."""
    validated: Callable[[], None]
    """Called after the last batch of each validation."""
    held: list[Held] = dataclasses.field(default_factory=list)
    """Filled by `prepare`."""

    def prepare(self, networks: Sequence[NetworkConfig], run: RunConfig, place: Place) -> Prepared:
        """Return learners as for training. Raises UserError, also if the whole store's parts do not fit into memory."""
        prepared = super().prepare(networks, run, place)
        splits = {name: split for name, split in prepared.splits.items() if isinstance(split, SplitBatches)}
        kinds = [find_kind(network.kind) for network in networks]
        started = time.perf_counter()
        if any(kind.set_statistics is not SideNetwork.set_statistics for kind in kinds):
            channel_statistics(splits["train"])
        seconds = time.perf_counter() - started
        sizes = {name: whole_size(self.whole, name, split) for name, split in splits.items()}
        tiers = assign_tiers(sizes, run.window, place.memory * 1e9, free_device_bytes(place.device))
        more = {"device": 0, "memory": 0, "streamed": 0}
        for name, split in splits.items():
            split.tier, tier = tiers[name], tiers[name]
            each = [sizes[name], split_size(split.split, split.collator)]
            large, small = (s.whole_bytes if tier == "memory" else s.streamed_bytes(run.window) for s in each)
            more[tier] = max(more[tier], large - small) if tier == "streamed" else more[tier] + large - small
        splits["validation"].in_order = self.timed(splits["validation"].in_order)  # type: ignore[method-assign]
        self.held.append(Held(tiers, more["memory"] + more["streamed"], seconds))
        return prepared

    def timed(self, batches: Callable[[], Iterator[Batch]]) -> Callable[[], Iterator[Batch]]:
        """Return the batches of a validation, followed by a call of `validated`."""

        def in_order() -> Iterator[Batch]:
            yield from batches()
            self.validated()

        return in_order


def whole_size(whole: Manifest, name: str, sample: SplitBatches) -> SplitSize:
    """Return what a split of the whole store takes of the arrays and layers that the sample's batches read."""
    read, layers = sample.collator.arrays, sample.collator.format.array_layers
    arrays = [spec for spec in activation_arrays(whole.backbone, whole.format) if spec.name in read]
    part = sum(whole.shard(spec, name).stride * len(layers(spec.name)) for spec in arrays)
    return SplitSize(part, whole.splits[name].parts)
