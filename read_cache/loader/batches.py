"""From parts to batches: how an example's bytes reach a network.

`order.py` decides which examples make which batch. Threads read each part a little before its first example is due,
compare its checksums (`store/reader.py`), and copy each example's slice of each array into a padded batch
(`collate.py`). The trainer converts that to float32 for all networks. A part is released after its last example,
unless the whole split is kept in memory or on the device.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch

from read_cache.loader.batch import Batch, Statistics
from read_cache.loader.collate import Collator, PaddedExamples, Values, as_tensor, pad
from read_cache.loader.order import epoch_batches, store_batches
from read_cache.loader.tiers import SplitSize, Tier
from read_cache.store.manifest import Manifest
from read_cache.store.reader import SplitReader, StoreReader
from read_cache.streams import ahead, copy_stream, is_gpu

PartArrays = dict[str, Values]
"""A part's activations by array name, on the device or beside it."""
READ_AHEAD = 2
"""Batches that are padded before they are due."""
READERS = 2
"""Threads: the first reading of a part takes about as long as padding, and both leave the interpreter to others."""
EXAMPLES = 1024
"""Examples whose channel statistics are taken."""


def split_size(manifest: Manifest, split: str, collator: Collator) -> SplitSize:
    """Return the bytes that the arrays and layers read by `collator` take."""
    return SplitSize(manifest.part_bytes(split, collator.arrays, collator.format), manifest.splits[split].parts)


class SplitBatches:
    """Batches of one split. At most two windows of parts are held at once, or all, where all are kept."""

    def __init__(
        self, split: SplitReader, collator: Collator, batch_size: int, window: int = 4, tier: Tier = "memory"
    ) -> None:
        """`collator` chooses the arrays and layers to read; tier `device` is the device of the collator."""
        self.split, self.collator, self.batch_size, self.window, self.tier = split, collator, batch_size, window, tier
        self.arrays = collator.arrays
        split.check_files(self.arrays)
        self.parts_ahead = split_size(split.manifest, split.name, collator).parts_ahead(window)
        self._held: dict[int, Future[PartArrays]] = {}

    def __len__(self) -> int:
        return -(-self.split.examples // self.batch_size)

    @property
    def kept(self) -> bool:
        """True if all parts stay in memory."""
        return self.tier != "streamed"

    @property
    def pinned(self) -> bool:
        """True if batches are padded on the host and copied to a GPU."""
        return is_gpu(self.collator.device) and self.tier != "device"

    @property
    def where(self) -> str:
        """The place of the parts, for messages: the device, memory, or read from the store as needed."""
        if not self.kept:
            return f"streamed, {self.parts_ahead} parts at a time"
        return "held on the device" if self.tier == "device" else "held in memory"

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield every example once, shuffled, from batch `start` on; the order depends on (seed, epoch) alone."""
        layout = self.split.layout
        order = epoch_batches(layout.part_start, layout.length, self.batch_size, self.window, seed, epoch)
        return self._batches(order[start:])

    def in_order(self) -> Iterator[Batch]:
        """Yield every example once, in the order of the store."""
        return self._batches(store_batches(self.split.examples, self.batch_size))

    def _batches(self, order: Sequence[np.ndarray]) -> Iterator[Batch]:
        device, padded = torch.device(self.collator.device), self.padded_batches(order)
        if self.pinned:
            yield from ahead(padded, self.collator.batch, torch.cuda.current_stream(device), copy_stream(device))
        else:
            yield from map(self.collator.batch, padded)

    def padded_batches(self, order: Sequence[np.ndarray]) -> Iterator[PaddedExamples]:
        """Yield the given batches of example numbers, read and padded ahead on threads."""
        parts_of = [np.unique(self._part_of[batch]).tolist() for batch in order]
        last_use = {part: number for number, parts in enumerate(parts_of) for part in parts}
        upcoming = deque(dict.fromkeys(part for parts in parts_of for part in parts))
        waiting: deque[tuple[Future[PaddedExamples], list[int]]] = deque()
        # Reads are given to the threads before the pads that wait for them, so a read is never behind its pad.
        pool = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        in_use: set[int] = set()

        def first_waiting() -> PaddedExamples:
            """Return the next batch, and release the parts that no later batch needs."""
            padding, finished = waiting.popleft()
            padded = padding.result()
            in_use.difference_update(finished)
            if not self.kept:
                for part in finished:
                    del self._held[part]
            return padded

        try:
            for number, (batch, parts) in enumerate(zip(order, parts_of, strict=True)):
                self._read_ahead(pool, upcoming, in_use, [part for part in parts if part not in in_use])
                padding = pool.submit(self._pad, batch, {part: self._held[part] for part in parts})
                waiting.append((padding, [part for part in parts if last_use[part] == number]))
                self._read_ahead(pool, upcoming, in_use, [])
                if len(waiting) > READ_AHEAD:
                    yield first_waiting()
            while waiting:
                yield first_waiting()
        finally:
            pool.shutdown(cancel_futures=True)
            if not self.kept:
                self._held.clear()
            self._held = {part: read for part, read in self._held.items() if read.done() and not read.cancelled()}

    def _read_ahead(self, pool: ThreadPoolExecutor, upcoming: deque[int], in_use: set[int], due: Sequence[int]) -> None:
        """Start reading the parts that are due, or otherwise as many as may be in use at once."""
        while upcoming and (upcoming[0] in due or (not due and len(in_use) < self.parts_ahead)):
            part = upcoming.popleft()
            in_use.add(part)
            if part not in self._held:
                self._held[part] = pool.submit(self._read_part, part)

    @cached_property
    def _part_of(self) -> np.ndarray:
        """[examples]: the part each example lies in."""
        return np.repeat(np.arange(self.split.parts), np.diff(self.split.layout.part_start))

    def _read_part(self, number: int) -> PartArrays:
        arrays = self.split.read_part(number, self.arrays, self.collator.format)
        if self.tier == "device":
            return {name: as_tensor(values).to(self.collator.device) for name, values in arrays.items()}
        return arrays

    def _pad(self, batch: np.ndarray, parts: dict[int, Future[PartArrays]]) -> PaddedExamples:
        read = {number: part.result() for number, part in parts.items()}
        numbers = self._part_of[batch].tolist()
        slices = {axis: [slice(*ends) for ends in all_ends[batch].tolist()] for axis, all_ends in self._slices.items()}
        activations = {
            name: [
                read[number][name][(slice(None),) * behind + (own,)]
                for number, own in zip(numbers, slices[axis], strict=True)
            ]
            for name, behind, axis in self._axes
        }
        padded = pad(self.split, batch, activations, self.collator.format)
        return padded.pinned() if self.pinned else padded

    @cached_property
    def _axes(self) -> list[tuple[str, int, str]]:
        """(array, number of axes before its flat axis, that axis)."""
        flat = [(name, self.split.specs[name].axes, self.split.specs[name].flat_axis or "") for name in self.arrays]
        return [(name, axes.index(axis), axis) for name, axes, axis in flat]

    @cached_property
    def _slices(self) -> dict[str, np.ndarray]:
        """By flat axis, [examples, 2]: where each example begins and ends within its part."""
        layout = self.split.layout
        begins = {axis: layout.offsets[axis] - self._part_of * size for axis, size in layout.sizes.items()}
        return {axis: np.stack([begin, begin + layout.extents[axis]], axis=1) for axis, begin in begins.items()}


def make_collator(
    store: StoreReader,
    device: str = "cpu",
    layers: Collection[int] | None = None,
    attention: bool = True,
    raw: bool = False,
) -> Collator:
    """Return a collator for a store, of all its layers or of some; each stack's last layer is always read."""
    held, calibration = store.manifest.format, store.calibration
    read = {
        stack: tuple(layer for layer in kept if layers is None or layer in layers or layer == kept[-1])
        for stack, kept in held.layers.items()
    }
    if calibration is not None:
        first = held.first
        calibration = calibration.of([0, *(held.layers[first].index(layer) + 1 for layer in read[first])])
    return Collator(
        store.manifest.backbone,
        held.replaced(layers=read),
        calibration,
        None if store.head is None else store.head[0],
        store.final_norm,
        device,
        attention and held.attention != "none",
        raw,
    )


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
