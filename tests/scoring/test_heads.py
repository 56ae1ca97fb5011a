"""The LM head against the long way: over the label trie, and over open targets."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from read_cache.loader.batch import Targets
from read_cache.scoring.heads import OpenHead, TrieHead
from read_cache.tasks import Task
from read_cache.trie import LabelTrie
from support.batches import targets_of

WIDTH = 12
LABELS = ((5, 6, 1), (5, 7, 8, 1), (9, 1), (5, 6, 3, 1))
TASK = Task(name="t", template="{a} {b}", labels=("one", "two", "three", "four"))
SCORES = Task(name="s", template="{a}", labels=("0.0", "2.5", "5.0", "7.5"), scores=True, metric="pearson_spearman")
label_sets = st.lists(
    st.lists(st.integers(3, 6), min_size=1, max_size=4).map(lambda ids: (*ids, 1)), min_size=2, max_size=6, unique=True
)


def trie_targets(trie: LabelTrie, labels: list[int], whole: bool) -> Targets:
    """Targets of examples with these labels: every node of the trie, or the gold path; padded to the longest."""
    rows, tokens = [], trie.tokens.tolist()
    for label in labels:
        nodes = range(len(trie.prefixes)) if whole else [node for node, _ in trie.paths[label]]
        gold = {node: tokens[place] for node, place in trie.paths[label]}
        rows.append([(node, tokens.index(gold[node]) if node in gold else -1) for node in nodes])
    longest = max(map(len, rows))
    filled = torch.tensor([row + [(-1, -1)] * (longest - len(row)) for row in rows])
    real = torch.arange(longest) < torch.tensor([len(row) for row in rows])[:, None]
    label = torch.tensor(labels)
    return targets_of({"decoder": real}, label=label, node_trie=filled[..., 0], node_target=filled[..., 1])


def long_way(rows: Tensor, trie: LabelTrie, y_TD: Tensor) -> Tensor:
    """Each label's log-probability, by softmax over the tokens that may follow each prefix of its path."""
    tokens, prefixes = trie.tokens.tolist(), list(trie.prefixes)
    found = []
    for ids in trie.label_ids:
        total = y_TD.new_zeros(())
        for depth in range(len(ids)):
            prefix = ids[:depth]
            if prefix not in prefixes:
                break
            following = {other[depth] for other in trie.label_ids if other[:depth] == prefix and len(other) > depth}
            logits = {token: rows[tokens.index(token)] @ y_TD[prefixes.index(prefix)] for token in following}
            total = total + logits[ids[depth]] - torch.logsumexp(torch.stack(list(logits.values())), 0)
        found.append(total)
    return torch.stack(found)


@given(label_sets)
def test_label_probabilities_are_those_of_constrained_decoding(labels) -> None:
    """They sum to one."""
    trie = LabelTrie(tuple(labels))
    task = Task(name="t", template="{a}", labels=tuple(f"label {number}" for number in range(len(labels))))
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(len(trie.tokens), WIDTH, generator=g)
    gold = [number % len(labels) for number in range(3)]
    targets = trie_targets(trie, gold, whole=True)
    y = torch.randn(3, len(trie.prefixes), WIDTH, generator=g)
    head = TrieHead(rows, trie, task)
    scores = head.scores(y, targets)
    expected = torch.stack([long_way(rows, trie, one) for one in y])
    torch.testing.assert_close(scores.probabilities.log(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores.probabilities.sum(1), torch.ones(3))
    assert scores.predicted.tolist() == expected.argmax(1).tolist()
    torch.testing.assert_close(scores.loss, -expected[range(3), gold], atol=1e-4, rtol=1e-4)
    assert scores.weight.tolist() == [1, 1, 1]


def test_training_on_the_gold_path_has_the_loss_of_the_whole_trie() -> None:
    """Training rows hold the gold path only; the gradient is that of the same nodes."""
    trie, g = LabelTrie(LABELS), torch.Generator().manual_seed(0)
    rows = torch.randn(len(trie.tokens), WIDTH, generator=g)
    head, labels = TrieHead(rows, trie, TASK), [0, 1, 2, 3]
    whole = torch.randn(4, len(trie.prefixes), WIDTH, generator=g).requires_grad_()
    path = trie_targets(trie, labels, whole=False)
    on_path = torch.zeros(*path.node_trie.shape, WIDTH)
    for b, nodes in enumerate(path.node_trie.tolist()):
        for t, node in enumerate(nodes):
            if node >= 0:
                on_path[b, t] = whole[b, node].detach()
    on_path.requires_grad_()
    losses = head.loss(on_path, path), head.loss(whole, trie_targets(trie, labels, whole=True))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(losses[1], -sum(long_way(rows, trie, y)[k] for k, y in enumerate(whole.detach())) / 4)
    gradients = [torch.autograd.grad(loss, y)[0] for loss, y in zip(losses, (on_path, whole), strict=True)]
    for b, nodes in enumerate(path.node_trie.tolist()):
        for t, node in enumerate(nodes):
            if node >= 0:
                torch.testing.assert_close(gradients[0][b, t], gradients[1][b, node])
            else:
                assert not gradients[0][b, t].any()


def test_a_label_is_worth_its_number_or_its_score() -> None:
    trie = LabelTrie(LABELS)
    rows = torch.eye(len(trie.tokens), WIDTH)
    targets = trie_targets(trie, [0, 2], whole=True)
    y = torch.zeros(2, len(trie.prefixes), WIDTH)
    y[:, 0, trie.tokens.tolist().index(9)] = 10  # the third label
    assert TrieHead(rows, trie, TASK).scores(y, targets).predicted.tolist() == [2, 2]
    assert TrieHead(rows, trie, SCORES).scores(y, targets).predicted.tolist() == [5.0, 5.0]


def test_rows_may_be_given_by_a_live_head() -> None:
    """A function, called at every batch; gradients reach what it returns."""
    trie, weight = LabelTrie(LABELS), nn.Parameter(torch.randn(len(LabelTrie(LABELS).tokens), WIDTH))
    head = TrieHead(lambda: weight, trie, TASK)
    assert list(head.parameters()) == []
    targets, y = trie_targets(trie, [0], whole=True), torch.randn(1, len(trie.prefixes), WIDTH)
    before = head.loss(y, targets)
    before.backward()
    assert weight.grad is not None
    weight.data += 1.7 * torch.randn_like(weight)
    assert not torch.allclose(head.loss(y, targets), before)


def open_targets(lengths: list[int], vocabulary: int, padding: int = 0) -> Targets:
    """Open targets of these lengths."""
    g, longest = torch.Generator().manual_seed(1), max(lengths) + padding
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    gold = torch.randint(vocabulary, real.shape, generator=g).masked_fill(~real, -1)
    node = torch.full_like(gold, -1)
    return targets_of({"decoder": real}, label=node[:, 0], node_trie=node, node_target=gold)


@pytest.mark.parametrize("padding", [0, 2])
def test_open_targets_are_scored_token_by_token(padding) -> None:
    """The loss is nats a token, in training and in evaluation (DEFECTS 8)."""
    g, lengths, vocabulary = torch.Generator().manual_seed(0), [3, 1, 4], 11
    rows, targets = torch.randn(vocabulary, WIDTH, generator=g), open_targets(lengths, vocabulary, padding)
    y = torch.randn(*targets.node_target.shape, WIDTH, generator=g)
    head = OpenHead(rows)
    assert head.loss_unit == "nats a token"
    losses = [
        [float(F.cross_entropy(rows @ y[b, t], targets.node_target[b, t])) for t in range(n)]
        for b, n in enumerate(lengths)
    ]
    right = [
        np.mean([int((rows @ y[b, t]).argmax()) == int(targets.node_target[b, t]) for t in range(n)])
        for b, n in enumerate(lengths)
    ]
    scores = head.scores(y, targets)
    assert scores.weight.tolist() == lengths
    assert scores.probabilities is None
    assert scores.loss.tolist() == pytest.approx([sum(one) for one in losses], rel=1e-5)
    assert scores.predicted.tolist() == pytest.approx(right)
    every_token = list(itertools.chain.from_iterable(losses))
    assert float(head.loss(y, targets)) == pytest.approx(np.mean(every_token), rel=1e-5)
