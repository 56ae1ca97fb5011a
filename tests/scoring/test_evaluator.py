"""Evaluation: rows scattered to their places, losses weighed, what cannot be evaluated refused; baselines."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score
from torch import Tensor, nn

from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.networks.base import NETWORKS, NetworkShape, build_network
from read_cache.scoring.choose import make_head, store_head
from read_cache.scoring.evaluator import MAJORITY, UNTRAINED, baselines, evaluate, joint_metric, majority, score_batch
from read_cache.scoring.heads import ClassifierHead, HeadSettings, OpenHead, RegressorHead, Scores, TrieHead
from read_cache.store.reader import StoreReader
from support.stores import make_store


class Shuffled(SplitBatches):
    """Batches that come in another order than the store's, as a live method's do."""

    def in_order(self):
        return self.epoch(seed=7, epoch=0)


class Recording(nn.Module):
    """Predicts each row's own number, and counts the batches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.stack, self.loss_unit, self.seen = "encoder", "nats", 0

    def scores(self, y: Tensor, targets, generator=None) -> Scores:
        assert y.dtype == torch.float32
        assert not torch.is_grad_enabled()
        self.seen += 1
        rows = torch.from_numpy(targets.rows).float()
        return Scores(rows, rows, torch.ones_like(rows), None)


@pytest.fixture(scope="module")
def open_store(tmp_path_factory, models, rows_folder) -> StoreReader:
    """A store of open targets."""
    path = tmp_path_factory.mktemp("open") / "store"
    return make_store(path, models["tied"], str(rows_folder / "open.toml"), rows_folder / "words")


def store_network(store: StoreReader, kind: str, **settings: object) -> nn.Module:
    """A network of a kind for a store, whose outputs differ from the frozen states."""
    config = NETWORKS[kind].resolve(NETWORKS[kind].Config(**settings), store.manifest.format)
    network = build_network(kind, config, NetworkShape.of(store.manifest.backbone, store.manifest.format), 0)
    for parameter in network.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return network


def rows_of(store: StoreReader) -> Tensor | None:
    return None if store.head is None else torch.from_numpy(store.head[1])


def test_predictions_go_to_their_rows_whatever_the_order(bert_store) -> None:
    """The metric compares row with row: predictions that are the gold values are perfect in any order."""
    store = StoreReader(bert_store)
    split = store.split("validation")

    class Gold(Recording):
        def scores(self, y: Tensor, targets, generator=None) -> Scores:
            score = targets.score
            return Scores(score, score, torch.ones_like(score), None)

    for batches in (kind(split, make_collator(store), 5) for kind in (SplitBatches, Shuffled)):
        gold, numbers = evaluate([(None, Gold()), (None, Recording())], batches)
        assert gold.metric == pytest.approx(100)
        assert gold.loss == pytest.approx(float(split.plan["score"].mean()))
        expected = split.plan["score"], np.arange(split.examples)
        assert numbers.details["pearson"] == pytest.approx(100 * pearsonr(*expected)[0])
        assert numbers.details["spearman"] == pytest.approx(100 * spearmanr(*expected)[0])
        assert numbers.metric == pytest.approx(np.mean(list(numbers.details.values())))
        assert numbers.loss == pytest.approx((split.examples - 1) / 2)


def test_splits_are_scored_as_one(bert_store) -> None:
    store = StoreReader(bert_store)
    splits = [store.split(name) for name in ("validation", "test")]
    found = [evaluate([(None, Recording())], SplitBatches(split, make_collator(store), 5))[0] for split in splits]
    gold = np.concatenate([split.plan["score"] for split in splits])
    rows = np.concatenate([np.arange(split.examples) for split in splits])
    expected = 50 * (pearsonr(gold, rows)[0] + spearmanr(gold, rows)[0])
    assert joint_metric("pearson_spearman", found) == pytest.approx(expected)


def test_networks_share_one_read(words_store) -> None:
    store = StoreReader(words_store)
    batches = SplitBatches(store.split("test"), make_collator(store), 4)
    heads = [Recording(), Recording()]
    evaluate([(None, head) for head in heads], batches)
    assert [head.seen for head in heads] == [len(batches)] * 2


@pytest.mark.parametrize("kind", ["read", "read_matching", "ladder", "layer_probe", "probe"])
@pytest.mark.parametrize("name", ["words_store", "bert_store"])
def test_batches_of_any_size_and_order_give_the_same(request, name, kind) -> None:
    """And networks are evaluated without dropout, wherever they were left."""
    store = StoreReader(request.getfixturevalue(name))
    settings = {"reduction": 4} if kind == "ladder" else {}
    network = store_network(store, kind, dropout=0.5, **settings)
    head = store_head(HeadSettings(dropout=0.5), store.manifest, rows_of(store), network)
    found = []
    for factory, size in ((SplitBatches, 1), (SplitBatches, 12), (Shuffled, 5)):
        network.train()
        head.train()
        batches = factory(store.split("validation"), make_collator(store, raw=True), size)
        found.append(evaluate([(network, head)], batches)[0])
        assert not network.training
    for one in found[1:]:
        assert one.loss == pytest.approx(found[0].loss, rel=1e-4)
        assert one.metric == pytest.approx(found[0].metric, abs=0.1)


def test_accuracy_is_that_of_every_rows_own_prediction(words_store) -> None:
    store = StoreReader(words_store)
    network = store_network(store, "read", hidden=6)
    head, split = store_head(HeadSettings(), store.manifest, rows_of(store), network), store.split("test")
    predicted = np.zeros(split.examples)
    with torch.inference_mode():
        for row, batch in enumerate(SplitBatches(split, make_collator(store), 1).in_order()):
            predicted[row] = float(score_batch(network, head, batch).predicted[0])
    [found] = evaluate([(network, head)], SplitBatches(split, make_collator(store), 4))
    assert found.metric == pytest.approx(100 * accuracy_score(split.plan["score"], predicted))
    assert found.details == {"accuracy": found.metric}


def test_the_loss_of_open_targets_is_a_mean_over_tokens(open_store) -> None:
    """DEFECTS 8: whatever the batches, the same number as training's on all tokens at once."""
    store, losses = open_store, []
    network = store_network(store, "read", hidden=6)
    head = store_head(HeadSettings(), store.manifest, rows_of(store), network)
    assert isinstance(head, OpenHead)
    split = store.split("validation")
    assert split.plan["decoder/length"].min() < split.plan["decoder/length"].max()
    for size in (1, 3, 12):
        losses.append(evaluate([(network, head)], SplitBatches(split, make_collator(store), size))[0].loss)
    whole = next(SplitBatches(split, make_collator(store), split.examples).in_order())
    with torch.inference_mode():
        losses.append(float(head.loss(network(whole), whole.targets)))
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-4)
    assert 7 < losses[0] < 12, "about log(8128), the loss of a token that is not known; a row's would be several times"


def test_a_training_split_of_gold_paths_is_refused(words_store, bert_store, open_store) -> None:
    store = StoreReader(words_store)
    with pytest.raises(UserError, match="gold path"):
        evaluate([(None, Recording())], SplitBatches(store.split("train"), make_collator(store), 8))
    for store in (StoreReader(bert_store), open_store):
        evaluate([(None, Recording())], SplitBatches(store.split("train"), make_collator(store), 8))


@pytest.mark.parametrize("name", ["words_store", "bert_store"])
def test_the_loss_of_a_network_whose_outputs_are_not_finite_says_so(request, name) -> None:
    """So that training can stop it; a saved one is refused when it is loaded (DEFECTS 3)."""
    store = StoreReader(request.getfixturevalue(name))
    network = store_network(store, "read", hidden=6)
    head = store_head(HeadSettings(), store.manifest, rows_of(store), network)
    network.U.data[0, 0] = float("nan")
    [found] = evaluate([(network, head)], SplitBatches(store.split("test"), make_collator(store), 4))
    assert not np.isfinite(found.loss)


@pytest.mark.parametrize(
    ("store", "kind", "settings", "expected"),
    [
        ("words_store", "read", {}, TrieHead),
        ("words_store", "read", {"kind": "trie"}, TrieHead),
        ("words_store", "read", {"kind": "trainable", "pooling": "first"}, ClassifierHead),
        ("words_store", "probe", {}, ClassifierHead),
        ("bert_store", "read", {}, RegressorHead),
        ("bert_store", "read", {"pooling": "apart"}, RegressorHead),
        ("bert_store", "probe", {"kind": "trainable"}, RegressorHead),
        ("open_store", "read", {}, OpenHead),
        ("words_store", "read", {"kind": "trainable"}, "those of its label"),
        ("words_store", "probe", {"pooling": "apart"}, "joins all texts"),
        ("words_store", "probe", {"kind": "trie"}, "probe"),
        ("bert_store", "read", {"kind": "trie"}, "no LM head"),
        ("open_store", "read", {"kind": "trainable"}, "open target"),
        ("open_store", "probe", {}, "open target"),
    ],
)
def test_which_head_a_network_takes(request, store, kind, settings, expected) -> None:
    found = request.getfixturevalue(store)
    reader = found if isinstance(found, StoreReader) else StoreReader(found)
    network = store_network(reader, kind)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            store_head(HeadSettings(**settings), reader.manifest, rows_of(reader), network)
        return
    head = store_head(HeadSettings(**settings), reader.manifest, rows_of(reader), network)
    assert type(head) is expected
    assert head.stack == network.readout
    assert bool(list(head.parameters())) == (expected in (ClassifierHead, RegressorHead))


def test_texts_apart_need_two_of_them(bert_store) -> None:
    manifest = StoreReader(bert_store).manifest
    record = manifest.task_record.replaced(task=manifest.task.replaced(template="only {sentence1}"))
    with pytest.raises(UserError, match="pooling"):
        make_head(HeadSettings(pooling="apart"), manifest.with_task(record), None, stack="encoder")


def test_a_heads_weights_depend_on_settings_and_seed_alone(bert_store) -> None:
    store = StoreReader(bert_store)
    network, state = store_network(store, "read"), torch.get_rng_state()
    made = [store_head(HeadSettings(width=4), store.manifest, None, network, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    first, again, other = (torch.cat([p.flatten() for p in head.parameters()]) for head in made)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_majority_class_is_of_the_training_rows(words_store, bert_store) -> None:
    store = StoreReader(words_store)
    train, test = store.split("train"), store.split("test")
    test.plan["score"][:] = [1, 1, 1, 1, 1, 1, 1, 0, 0]
    for label, expected in ((1, 700 / 9), (0, 200 / 9)):
        train.plan["label"][:] = label
        assert majority(test, train) == pytest.approx(expected)
    scores = StoreReader(bert_store)
    assert majority(scores.split("test"), scores.split("train")) == 0  # a constant correlates with nothing


def test_baselines_of_each_kind_of_store(words_store, bert_store, open_store) -> None:
    words = baselines(StoreReader(words_store))
    assert set(words) == {MAJORITY, UNTRAINED}
    assert set(words[MAJORITY]) == set(words[UNTRAINED]) == {"validation", "test"}
    assert set(baselines(StoreReader(bert_store))) == {MAJORITY}
    assert set(baselines(open_store)) == {UNTRAINED}


def test_the_untrained_backbone_is_read_with_no_correction(words_store) -> None:
    store = StoreReader(words_store)
    config = NETWORKS["read"].resolve(NETWORKS["read"].Config(), store.manifest.format)
    network = build_network("read", config, NetworkShape.of(store.manifest.backbone, store.manifest.format), 0)
    head = store_head(HeadSettings(), store.manifest, rows_of(store), network)
    for name in ("validation", "test"):
        batches = SplitBatches(store.split(name), make_collator(store), 4)
        assert baselines(store)[UNTRAINED][name] == evaluate([(network, head)], batches)[0].metric


def test_scores_are_computed_in_float32_from_any_network(words_store) -> None:
    store = StoreReader(words_store)
    head = store_head(HeadSettings(), store.manifest, rows_of(store), store_network(store, "read"))
    batch = next(SplitBatches(store.split("test"), make_collator(store), 4).in_order())

    class Half(nn.Module):
        def forward(self, batch) -> Tensor:
            return batch.final.bfloat16()

    scores = score_batch(Half(), head, batch)
    assert all(getattr(scores, field.name).dtype == torch.float32 for field in dataclasses.fields(scores))


def test_baselines_are_refused_on_training_rows(words_store) -> None:
    store = StoreReader(words_store)
    assert set(baselines(store, ["test"])[MAJORITY]) == {"test"}
    with pytest.raises(UserError, match="train"):
        baselines(store, ["train"])
