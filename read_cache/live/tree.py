"""The decoder prefixes of label tries: what the decoder runs over, and what networks see of it.

Shape letters as in `loader/batch.py`; P path of the decoder.
"""

from collections.abc import Collection

import numpy as np
from torch import Tensor

from read_cache.live.forms import Arrays, row_axis
from read_cache.trie import LabelTrie


class PrefixTree:
    """The decoder prefixes of some label tries: paths that the decoder runs over, and nodes that networks see."""

    def __init__(self, tries: Collection[LabelTrie]) -> None:
        every = {prefix for trie in tries for prefix in trie.prefixes}
        self.prefixes = sorted(every, key=lambda prefix: (len(prefix), prefix))
        self.paths = sorted(every - {prefix[:-1] for prefix in every if prefix})
        self._path = [next(p for p, path in enumerate(self.paths) if path[: len(x)] == x) for x in self.prefixes]
        self._place = [len(prefix) for prefix in self.prefixes]
        self._ancestors = [self.nodes([x[:depth] for depth in range(len(x) + 1)]) for x in self.prefixes]

    def nodes(self, prefixes: Collection[tuple[int, ...]]) -> list[int]:
        """The nodes of some prefixes."""
        return [self.prefixes.index(prefix) for prefix in prefixes]

    def path_ids(self, start_token: int) -> list[np.ndarray]:
        """Decoder tokens of each path."""
        return [np.array([start_token, *path]) for path in self.paths]

    def gather(self, values: Tensor, row_axis: int = 0) -> Tensor:
        """[…, B*P, place, …] to […, B, node, …]."""
        by_path = values.unflatten(row_axis, (-1, len(self.paths)))
        return by_path[(slice(None),) * (row_axis + 1) + (self._path, self._place)]

    def gather_arrays(self, arrays: Arrays) -> Arrays:
        """The decoder's arrays by node instead of path and place."""
        gathered = {name: self.gather(values, row_axis(name, values)) for name, values in arrays.items()}
        if (by_place := gathered.get("decoder/self_attention")) is not None:
            own = by_place.new_zeros(*by_place.shape[:-1], len(self.prefixes))
            for node, ancestors in enumerate(self._ancestors):
                own[..., node, ancestors] = by_place[..., node, : len(ancestors)]
            gathered["decoder/self_attention"] = own
        return gathered
