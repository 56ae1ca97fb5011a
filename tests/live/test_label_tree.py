"""The decoder positions of several label tries together."""

from read_cache.live.inputs import label_tree
from read_cache.trie import LabelTrie

ONE = LabelTrie(((5, 6, 1), (5, 7, 1), (8, 1)))
OTHER = LabelTrie(((5, 7, 9, 1), (5, 7, 4, 1)))


def test_it_holds_every_prefix_of_every_trie_once_and_parents_first() -> None:
    nodes, index = label_tree([ONE, OTHER, ONE], start_token=3)
    assert nodes.token.tolist() == [3, 5, 7]
    assert nodes.parent.tolist() == [-1, 0, 1]
    assert index == {(): 0, (5,): 1, (5, 7): 2}
    assert {*ONE.prefixes, *OTHER.prefixes} == index.keys()


def test_branches_have_one_parent() -> None:
    nodes, _ = label_tree([ONE, LabelTrie(((2, 3, 1), (2, 4, 1)))], start_token=0)
    assert nodes.token.tolist() == [0, 2, 5]
    assert nodes.parent.tolist() == [-1, 0, 0]


def test_without_tries_it_is_the_start_token() -> None:
    nodes, _ = label_tree([], start_token=4)
    assert (nodes.token.tolist(), nodes.parent.tolist()) == ([4], [-1])
