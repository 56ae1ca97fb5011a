"""Decoder nodes: the positions at which a label trie, or an open target, is scored."""

import numpy as np

from read_cache.backbones.base import Nodes
from read_cache.trie import LabelTrie


def gold_nodes(trie: LabelTrie, start_token: int, label: int) -> Nodes:
    """Return the nodes on a label's path: what a training row holds."""
    return _trie_nodes(trie, start_token, label, trie.gold_nodes(label))


def all_nodes(trie: LabelTrie, start_token: int, label: int) -> Nodes:
    """Return every node of the label trie, with the gold tokens of one label: what other rows hold."""
    return _trie_nodes(trie, start_token, label, np.arange(len(trie.prefixes), dtype=np.int32))


def _trie_nodes(trie: LabelTrie, start_token: int, label: int, kept: np.ndarray) -> Nodes:
    ids = trie.label_ids[label]
    index = {int(node): position for position, node in enumerate(kept)}
    prefixes = [trie.prefixes[node] for node in kept]
    return Nodes(
        token=np.array([prefix[-1] if prefix else start_token for prefix in prefixes], dtype=np.int32),
        parent=np.array([index.get(int(trie.parents[node]), -1) for node in kept], dtype=np.int32),
        trie=kept,
        target=np.array(
            [ids[len(prefix)] if ids[: len(prefix)] == prefix else -1 for prefix in prefixes], dtype=np.int32
        ),
    )


def open_nodes(path: list[int], start_token: int) -> Nodes:
    """Return the nodes of an open target: its teacher-forced path."""
    return Nodes(
        token=np.array([start_token, *path[:-1]], dtype=np.int32),
        parent=np.arange(-1, len(path) - 1, dtype=np.int32),
        trie=np.full(len(path), -1, dtype=np.int32),
        target=np.array(path, dtype=np.int32),
    )
