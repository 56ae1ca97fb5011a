"""From parts to batches: whole parts are read, examples are shuffled within a window of parts, padded, normalised.

An example's bytes: its part is read and checked once (`store/reader.py`), the example's slice of each array is copied
into a zeroed tensor (`make_batch`), and that `Batch` is what every network sees.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from read_cache.networks.batch import Batch, ExampleArrays, make_batch
from read_cache.store.reader import Part, SplitReader
from read_cache.train.order import epoch_windows, window_batches


class SplitBatches:
    """Batches of one split. Memory holds at most two windows of parts, of `memory_bytes` together."""

    def __init__(
        self, split: SplitReader, head_tokens: np.ndarray, batch_size: int, memory_bytes: int, device: str = "cpu"
    ) -> None:
        self.split, self.batch_size, self.device = split, batch_size, device
        self._head_tokens = torch.from_numpy(head_tokens)  # sorted
        self._resident: dict[int, Part] = {}
        part_bytes = sum(split.open_array(spec.name).nbytes for spec in split.specs) / split.parts
        self._fits = part_bytes * split.parts <= memory_bytes
        self.window = split.parts if self._fits else max(1, int(memory_bytes / part_bytes / 2))

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Every example once, shuffled; the order depends on (seed, epoch) and the window alone."""
        windows = epoch_windows(self.split.parts, self.window, seed, epoch)
        for number, parts in enumerate(self._read_windows(windows)):
            examples = [(part, row) for part in parts for row in range(part.examples.start, part.examples.stop)]
            length = self.split.plan["length"][[row for _, row in examples]]
            for places in window_batches(length, self.batch_size, seed, epoch, number):
                yield self._batch([examples[place] for place in places])

    def in_order(self) -> Iterator[Batch]:
        """Every example once, in the order of the store."""
        for parts in self._read_windows([np.array([part]) for part in range(self.split.parts)]):
            for part in parts:
                rows = range(part.examples.start, part.examples.stop)
                for start in range(0, len(rows), self.batch_size):
                    yield self._batch([(part, row) for row in rows[start : start + self.batch_size]])

    def __len__(self) -> int:
        """Batches in an epoch, which windows that end in a short batch may exceed by one each."""
        return -(-self.split.examples // self.batch_size)

    def _read_windows(self, windows: list[np.ndarray]) -> Iterator[list[Part]]:
        """Each window's parts; the next window is read on a thread while the caller works on this one."""
        with ThreadPoolExecutor(1, thread_name_prefix="part-reader") as pool:
            waiting = pool.submit(self._read_window, windows[0])
            for following in [*windows[1:], None]:
                parts = waiting.result()
                if following is not None:
                    waiting = pool.submit(self._read_window, following)
                yield parts

    def _read_window(self, parts: np.ndarray) -> list[Part]:
        return [self._read_part(int(part)) for part in parts]

    def _read_part(self, number: int) -> Part:
        if number in self._resident:
            return self._resident[number]
        part = self.split.read_part(number)
        if self._fits:
            self._resident[number] = part
        return part

    def _batch(self, examples: list[tuple[Part, int]]) -> Batch:
        return make_batch([self._example(part, row) for part, row in examples], self._head_tokens, self.device)

    def _example(self, part: Part, row: int) -> ExampleArrays:
        """One example's slice of each array of its part."""
        layout, plan = self.split.layout, self.split.plan
        places = {}
        for axis, extent in layout.extents.items():
            start = int(layout.offsets[axis][row]) - part.number * layout.sizes[axis]
            places[axis] = slice(start, start + int(extent[row]))
        activations = {}
        for spec in self.split.specs:
            values = part.arrays[spec.name]
            place = places[spec.flat_axis or ""]
            activations[spec.name] = values[:, place] if spec.axes[-1] == "width" else values[..., place]
        node = int(plan["node_offset"][row])
        nodes = slice(node, node + int(plan["nodes"][row]))
        return ExampleArrays(activations, plan["node_trie"][nodes], plan["node_target"][nodes])
