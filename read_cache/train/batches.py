"""From parts to batches: whole parts are read, examples are shuffled within a window of parts, padded, normalised.

An example's bytes: its part is read and checked once (`store/reader.py`), `_pad` copies the example's slice of each
array into a zeroed tensor, and `Batch` is what every network sees.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from read_cache.networks.batch import Batch, StackBatch, rms_norm
from read_cache.store.reader import Part, SplitReader
from read_cache.train.order import epoch_windows, window_order


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
            order = window_order(len(examples), seed, epoch, number)
            yield from self._batches([examples[place] for place in order])

    def in_order(self) -> Iterator[Batch]:
        """Every example once, in the order of the store."""
        for parts in self._read_windows([np.array([part]) for part in range(self.split.parts)]):
            yield from self._batches([(p, row) for p in parts for row in range(p.examples.start, p.examples.stop)])

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

    def _batches(self, examples: list[tuple[Part, int]]) -> Iterator[Batch]:
        for start in range(0, len(examples), self.batch_size):
            yield self._batch(examples[start : start + self.batch_size])

    def _batch(self, examples: list[tuple[Part, int]]) -> Batch:
        final, decoder_normed = self._hidden("decoder/hidden", examples)
        _, encoder_normed = self._hidden("encoder/hidden", examples)
        trie, target = (self._nodes(name, examples) for name in ("node_trie", "node_target"))
        target = torch.where(target >= 0, torch.searchsorted(self._head_tokens, target), -1)
        return Batch(
            encoder=StackBatch(encoder_normed, self._weights("encoder/attention", "length", "length", examples)),
            decoder=StackBatch(decoder_normed, self._weights("decoder/self_attention", "nodes", "nodes", examples)),
            cross_attention=self._weights("decoder/cross_attention", "nodes", "length", examples),
            final=final,
            node_trie=trie.to(self.device),
            node_target=target.to(self.device),
            rows=torch.tensor([row for _, row in examples]),
        )

    def _hidden(self, name: str, examples: list[tuple[Part, int]]) -> tuple[Tensor, Tensor]:
        """The final states [B, S, D] as stored, and all states [L+1, B, S, D] normalised; both float32, padded."""
        axis, size = ("token", "length") if name.startswith("encoder") else ("node", "nodes")
        states, _, width = examples[0][0].arrays[name].shape
        longest = max(int(self.split.plan[size][row]) for _, row in examples)
        dtype = torch.float32 if self.split.manifest.dtype == "fp32" else torch.bfloat16
        padded = torch.zeros(states, len(examples), longest, width, dtype=dtype)
        for place, (part, row) in enumerate(examples):
            values = part.arrays[name][:, self._slice(axis, part, row)]
            tensor = torch.from_numpy(values if dtype == torch.float32 else values.view(np.int16)).view(dtype)
            padded[:, place, : tensor.shape[1]] = tensor
        hidden = padded.to(self.device).float()
        return hidden[-1], rms_norm(hidden)

    def _weights(self, name: str, to: str, of: str, examples: list[tuple[Part, int]]) -> Tensor | None:
        """Attention weights, float32, padded with zeros: [L, (H,) B, to, from]."""
        first = examples[0][0].arrays.get(name)
        if first is None:
            return None
        axis = {"encoder/attention": "pair", "decoder/self_attention": "node_pair"}.get(name, "cross")
        plan = self.split.plan
        longest = [max(int(plan[size][row]) for _, row in examples) for size in (to, of)]
        padded = torch.zeros(*first.shape[:-1], len(examples), *longest, dtype=torch.from_numpy(first[:0]).dtype)
        for place, (part, row) in enumerate(examples):
            rows, columns = int(plan[to][row]), int(plan[of][row])
            values = torch.from_numpy(part.arrays[name][..., self._slice(axis, part, row)])
            padded[..., place, :rows, :columns] = values.unflatten(-1, (rows, columns))
        return padded.to(self.device).float()

    def _nodes(self, name: str, examples: list[tuple[Part, int]]) -> Tensor:
        """A node array [B, T] int64, padded with -1."""
        plan = self.split.plan
        rows = [row for _, row in examples]
        padded = torch.full((len(rows), int(plan["nodes"][rows].max())), -1)
        for place, row in enumerate(rows):
            start, count = int(plan["node_offset"][row]), int(plan["nodes"][row])
            padded[place, :count] = torch.from_numpy(plan[name][start : start + count])
        return padded

    def _slice(self, axis: str, part: Part, row: int) -> slice:
        """Where an example lies on a flat axis of its part."""
        layout = self.split.layout
        start = int(layout.offsets[axis][row]) - part.number * layout.sizes[axis]
        return slice(start, start + int(layout.extents[axis][row]))
