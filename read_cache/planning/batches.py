"""The batches that both stages will make of planned rows, and what the time of each is counted in."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from read_cache.extract.parts import length_batches
from read_cache.loader.order import epoch_batches, store_batches
from read_cache.planning.rows import SplitRows
from read_cache.train.grid import TrainConfig

PASS_FEATURES = ("a batch", "a row", "a token", "a pair of tokens", "a token seen by a decoder path")
STEP_FEATURES = ("a batch", "a token", "a pair of tokens", "a decoder node")


@dataclasses.dataclass(frozen=True)
class Batches:
    """Padded batches, each [batches] int64."""

    rows: np.ndarray
    tokens: np.ndarray
    """Of the longest row."""
    nodes: np.ndarray
    """Of the row with most of them."""
    paths: np.ndarray
    """Rows of the decoder in the backbone's pass, over all examples."""
    positions: np.ndarray
    """Of the longest path."""

    @staticmethod
    def of(split: SplitRows, batches: Iterable[Sequence[int] | np.ndarray]) -> "Batches":
        """Those that hold these examples of a split."""
        length, count = split.layout.length, split.layout.nodes
        found = [(len(batch), length[batch].max(), count[batch].max()) for batch in batches]
        rows, tokens, nodes = np.array(found, np.int64).T
        positions = nodes if split.depth is None else np.full_like(nodes, split.depth)
        return Batches(rows, tokens, nodes, rows * split.paths, positions)

    def pass_features(self) -> np.ndarray:
        """[batches, 5]: how much there is of each of `PASS_FEATURES`."""
        tokens = self.rows * self.tokens
        seen = self.paths * self.tokens
        columns = (np.ones_like(tokens), self.rows, tokens + self.paths * self.positions, tokens * self.tokens, seen)
        return np.stack(columns, axis=1).astype(np.float64)

    def step_features(self) -> np.ndarray:
        """[batches, 4]: how much there is of each of `STEP_FEATURES`."""
        tokens = self.rows * self.tokens
        columns = (np.ones_like(tokens), tokens, tokens * self.tokens, self.rows * self.nodes)
        return np.stack(columns, axis=1).astype(np.float64)


def extraction_batches(split: SplitRows, batch_tokens: int) -> Batches:
    """What the backbone is run on to fill the parts of a split."""
    batches = []
    for part in range(split.layout.parts):
        place = split.layout.examples(part)
        batches += [np.array(batch) + place.start for batch in length_batches(split.layout.length[place], batch_tokens)]
    return Batches.of(split, batches)


def training_batches(split: SplitRows, run: TrainConfig) -> Batches:
    """What an epoch steps on."""
    layout = split.layout
    order = epoch_batches(layout.part_start, layout.length, run.batch_size, run.window, run.order_seed, 0)
    return Batches.of(split, order)


def evaluation_batches(split: SplitRows, run: TrainConfig) -> Batches:
    """What an evaluation reads, in the order of the store."""
    return Batches.of(split, store_batches(len(split.layout.length), run.batch_size))
