"""The decoder positions of label tries: what the decoder runs over for labels."""

from collections.abc import Iterable

import numpy as np
import torch

from read_cache.backbones import StackTokens
from read_cache.trie import LabelTrie


class LabelTree:
    """The prefixes of some label tries together, one decoder position each; without tries the start token alone."""

    def __init__(self, tries: Iterable[LabelTrie], start_token: int) -> None:
        prefixes = {(), *(prefix for trie in tries for prefix in trie.prefixes)}
        ordered = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
        self.index = {prefix: position for position, prefix in enumerate(ordered)}
        self.token = torch.tensor([prefix[-1] if prefix else start_token for prefix in ordered])
        self.parent = np.array([self.index[prefix[:-1]] if prefix else -1 for prefix in ordered])

    def nodes(self, trie: LabelTrie) -> list[int]:
        """Return the positions of a trie's nodes, in the order of the trie."""
        return [self.index[prefix] for prefix in trie.prefixes]

    def tokens(self, rows: int, device: str) -> StackTokens:
        """Return the tree as the decoder tokens of every row."""
        ids = self.token.to(device).repeat(rows, 1)
        return StackTokens(ids, torch.ones_like(ids, dtype=torch.bool), parent=[self.parent] * rows)
