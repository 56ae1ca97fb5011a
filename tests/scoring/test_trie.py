"""The label trie: which prefixes it keeps, and that its paths say labels apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_cache.errors import UserError
from read_cache.extraction.encode import label_nodes
from read_cache.trie import LabelTrie

label_sets = st.lists(
    st.lists(st.integers(3, 6), min_size=1, max_size=4).map(lambda ids: (*ids, 1)), min_size=2, max_size=6, unique=True
)


def test_labels_that_differ_at_once_need_one_node() -> None:
    trie = LabelTrie(((10, 1), (20, 21, 1)))
    assert trie.prefixes == ((),)
    assert trie.tokens.tolist() == [10, 20]
    assert trie.paths == (((0, 0),), ((0, 1),))


def test_a_label_that_begins_another_parts_at_its_end() -> None:
    trie = LabelTrie(((10, 1), (10, 11, 1), (20, 1)))
    assert trie.prefixes == ((), (10,))
    assert label_nodes(trie, 0, 0, gold_only=False).parent.tolist() == [-1, 0]
    assert trie.tokens.tolist() == [1, 10, 11, 20]


@pytest.mark.parametrize("labels", [[[10, 1], [10, 1]], [[10, 11, 1], [10, 11]], [[], [10, 1]], [[10, 1]]])
def test_labels_that_nothing_tells_apart_are_refused(labels) -> None:
    with pytest.raises(UserError, match="same tokens" if len(labels) > 1 else "one label"):
        LabelTrie(tuple(map(tuple, labels)))


@given(label_sets)
def test_probabilities_over_the_paths_sum_to_one(labels) -> None:
    trie = LabelTrie(tuple(labels))
    logits = np.where(trie.allowed, np.random.default_rng(0).normal(size=trie.allowed.shape), -np.inf)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert sum(np.prod([shares[node, token] for node, token in path]) for path in trie.paths) == pytest.approx(1)


@given(label_sets)
def test_parents_come_first_and_every_label_is_told_apart(labels) -> None:
    trie = LabelTrie(tuple(labels))
    assert all(parent < node for node, parent in enumerate(label_nodes(trie, 0, 0, gold_only=False).parent))
    assert len(set(trie.paths)) == len(labels)
