"""The decoder positions of several label tries together."""

import numpy as np
import torch

from read_cache.live.inputs import LabelTree
from read_cache.trie import LabelTrie

ONE = LabelTrie(((5, 6, 1), (5, 7, 1), (8, 1)))
OTHER = LabelTrie(((5, 7, 9, 1), (5, 7, 4, 1)))


def test_it_holds_every_prefix_of_every_trie_once_and_parents_first() -> None:
    tree = LabelTree([ONE, OTHER, ONE], start_token=3)
    prefixes = [(), (5,), (5, 7)]
    assert tree.token.tolist() == [3, 5, 7]
    assert tree.parent.tolist() == [-1, 0, 1]
    for trie in (ONE, OTHER):
        nodes = tree.nodes(trie)
        assert [prefixes[node] for node in nodes] == list(trie.prefixes)


def test_tokens_are_the_tree_in_every_row() -> None:
    tree = LabelTree([ONE, LabelTrie(((2, 3, 1), (2, 4, 1)))], start_token=0)
    tokens = tree.tokens(3, "cpu")
    assert tokens.ids.tolist() == [[0, 2, 5]] * 3
    assert bool(tokens.mask.all())
    assert tokens.parent is not None
    assert all(np.array_equal(parent, [-1, 0, 0]) for parent in tokens.parent)


def test_without_tries_it_is_the_start_token() -> None:
    tokens = LabelTree([], start_token=4).tokens(2, "cpu")
    assert torch.equal(tokens.ids, torch.tensor([[4], [4]]))
