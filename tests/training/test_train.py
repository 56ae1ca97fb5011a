"""Training: alone or together the same, and what results and networks hold."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from read_cache.config import Place, RunConfig
from read_cache.engines import ENGINES, LocalEngine
from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches
from read_cache.networks.saved import load_network
from read_cache.scoring.heads import HeadSettings
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import FromStore
from read_cache.training.learner import Learner
from read_cache.training.results import StopReason, read_results
from read_cache.watch import Watch
from support.stores import make_store
from support.training import network, train_store, weights

RUN = RunConfig(epochs=2, batch_size=8)
GRID = [
    network(cell="rnn", hidden=8),
    network(learning_rate=3e-3, seed=4, hidden=8, dropout=0.2),
    network(cell="lstm", hidden=12, recurrent=False, aggregate="mean"),
    network("ladder", reduction=4),
    network("probe", learning_rate=5e-3),
]


def test_each_network_is_what_it_would_have_been_alone(tmp_path, words_store) -> None:
    together = train_store(words_store, tmp_path / "together", GRID, RUN)
    for config, result in zip(GRID, together, strict=True):
        alone = train_store(words_store, tmp_path / config.name, [config], RUN)[0]
        assert alone.history == result.history
        assert all(torch.equal(value, weights(alone)[name]) for name, value in weights(result).items())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_learns_from_what_it_reads(tmp_path, words_store, precision) -> None:
    run = RunConfig(epochs=25, batch_size=8, patience=25, precision=precision)
    result = train_store(words_store, tmp_path, [network(learning_rate=5e-3, hidden=32)], run)[0]
    assert result.history[-1].train_loss < 0.5 * result.history[0].train_loss


def test_a_store_without_an_lm_head_trains_a_head_with_its_own_learning_rate(tmp_path, bert_store) -> None:
    networks = [
        network("probe").replaced(head=HeadSettings(pooling="apart", learning_rate=rate)) for rate in (1e-6, 1e-2)
    ]
    run = RunConfig(epochs=6, batch_size=8)
    slow, fast = train_store(bert_store, tmp_path, networks, run)
    assert abs(slow.history[-1].train_loss - slow.history[0].train_loss) < 1e-2
    assert fast.history[-1].train_loss < 0.8 * fast.history[0].train_loss
    assert fast.loss_unit == "squared error"
    assert {name for name in weights(fast) if name.startswith("head.")}
    assert slow.parameters == sum(math.prod(v.shape) for n, v in weights(slow).items() if n.startswith("head."))


def test_losses_of_an_open_target_are_of_one_unit(tmp_path, models, rows_folder) -> None:
    """Training and validation loss of an untrained network agree: both are nats a token, near log(vocabulary)."""
    store = make_store(tmp_path / "s", models["tied"], str(rows_folder / "open.toml"), rows_folder / "words")
    rate = 1e-6
    result = train_store(tmp_path / "s", tmp_path / "out", [network(learning_rate=rate, hidden=8)], RUN)[0]
    first = result.history[0]
    assert store.manifest.task.target
    assert result.loss_unit == "nats a token"
    assert first.train_loss == pytest.approx(first.validation_loss, rel=0.1)


def test_results_are_not_made_twice(tmp_path, words_store, monkeypatch) -> None:
    first = train_store(words_store, tmp_path, GRID[:2], RUN)
    monkeypatch.setattr(SplitBatches, "epoch", lambda *_: pytest.fail("trained again"))
    assert train_store(words_store, tmp_path, GRID[:2], RUN) == first
    assert train_store(words_store, tmp_path, GRID[1::-1], RUN) == first[::-1]
    assert read_results(tmp_path) == first


def test_the_moving_average_of_the_weights_is_validated_and_saved(tmp_path, words_store, monkeypatch) -> None:
    """From the weights after each step: the saved network is their average, and the steps are those without one."""
    steps: list[dict[str, torch.Tensor]] = []
    count_step = Learner.count_step

    def record(learner, loss, examples):
        steps.append({name: weight.detach().clone() for name, weight in learner.parameters.items()})
        count_step(learner, loss, examples)

    monkeypatch.setattr(Learner, "count_step", record)
    run = RunConfig(epochs=1, batch_size=4)
    plain = train_store(words_store, tmp_path / "plain", GRID[:1], run)[0]
    alone, steps = steps, []
    result = train_store(words_store, tmp_path / "average", GRID[:1], run.replaced(ema=0.5))[0]
    assert all(torch.equal(one[name], other[name]) for one, other in zip(alone, steps, strict=True) for name in one)
    decays = [min(0.5, (1 + step) / (10 + step)) for step in range(len(steps))]
    for name in steps[0]:
        average = torch.zeros_like(steps[0][name])  # of the steps: the first weights have no share left
        for step, decay in zip(steps, decays, strict=True):
            average = decay * average + (1 - decay) * step[name]
        torch.testing.assert_close(weights(result)[name], average, atol=10 * math.prod(decays), rtol=1e-4)
        assert not torch.equal(weights(result)[name], weights(plain)[name])


def test_early_stopping_keeps_the_best_epoch(tmp_path, words_store) -> None:
    run = RunConfig(epochs=12, batch_size=8, patience=2)
    result = train_store(words_store, tmp_path, [network(cell="rnn", hidden=8, learning_rate=0.02)], run)[0]
    metrics = [epoch.validation for epoch in result.history]
    assert result.validation == metrics[result.best_epoch - 1] == max(metrics)
    assert len(metrics) <= result.best_epoch + run.patience
    assert result.stop is (StopReason.patience if len(metrics) < 12 else StopReason.all_epochs)


@pytest.mark.parametrize("patience", [2, 3])
def test_an_equal_metric_with_a_smaller_loss_is_better_and_patience_counts_epochs_since(words_store, patience) -> None:
    run = RUN.replaced(patience=patience)
    (learner,) = FromStore(StoreFolder(words_store)).prepare([network(hidden=8)], run, Place()).learners
    for metric, loss, best in [(50, 1.0, 0), (50, 0.9, 1), (50, 0.9, 1), (49, 0.1, 1), (50, 1.0, 1)][: 2 + patience]:
        assert learner.stop is None
        learner.end_epoch(metric, loss, examples=1)
        assert learner.best_epoch == best
    assert learner.stop is StopReason.patience
    assert learner.stop_detail.endswith(f"nor an equal one with a smaller loss, for {patience} epochs")


def test_weight_decay_shrinks_the_weights_at_the_learning_rate(words_store) -> None:
    run = RUN.replaced(weight_decay=0.5)
    config = network(hidden=8, learning_rate=0.1)
    (learner,) = FromStore(StoreFolder(words_store)).prepare([config], run, Place()).learners
    before = {name: weight.detach().clone() for name, weight in learner.parameters.items()}
    for weight in learner.parameters.values():
        weight.grad = torch.zeros_like(weight)
    learner.update(torch.tensor(0.0), 1)
    for name, weight in learner.parameters.items():
        torch.testing.assert_close(weight.detach(), before[name] * (1 - 0.1 * learner.rate_factor(0) * 0.5))


def test_a_result_says_what_was_trained_on_what(tmp_path, words_store) -> None:
    result = train_store(words_store, tmp_path, GRID[:1], RUN)[0]
    manifest = StoreReader(words_store).manifest
    assert (result.kind, result.configuration) == ("read", GRID[0].configuration)
    assert (result.identity, result.store) == (manifest.identity, str(words_store))
    assert result.config["attention"] == manifest.format.attention  # as the store completed it
    assert result.run == RUN.values()
    assert result.examples == {name: split.examples for name, split in manifest.splits.items()}
    counts = [result.examples[name] for name in ("validation", "test")]  # accuracy: the mean over all their rows
    assert result.validation_and_test == pytest.approx(np.average([result.validation, result.test], weights=counts))
    assert result.parameters_percent == round(100 * result.parameters / manifest.backbone.parameters, 4)
    assert result.readings["wall_seconds"] > 0
    assert json.loads((tmp_path / "results.jsonl").read_text()) == result.values()


def test_saved_networks_come_back_as_they_were(tmp_path, words_store) -> None:
    for config, result in zip(GRID, train_store(words_store, tmp_path, GRID, RUN), strict=True):
        saved = load_network(result.folder)
        assert saved.record.kind == config.kind
        assert saved.record.config == result.config
        assert saved.record.backbone.digest == StoreReader(words_store).manifest.backbone.digest
        loaded = {f"network.{name}": value for name, value in saved.network.state_dict().items()}
        loaded |= {f"head.{name}": value for name, value in saved.head_weights.items()}
        assert loaded.keys() == weights(result).keys()
        assert all(torch.equal(value, loaded[name]) for name, value in weights(result).items())
        assert (Path(result.folder) / "config.json").exists()


def test_scores_are_trained_and_evaluated_over_the_whole_trie(tmp_path, models, rows_folder) -> None:
    toml = tmp_path / "scores.toml"
    toml.write_text(
        'template = "scores: {sentence1} {sentence2}"\nmetric = "pearson_spearman"\nscores = true\nlabels = '
        + str([f"{step / 5:.1f}" for step in range(26)]).replace("'", '"')
    )
    store = make_store(tmp_path / "s", models["tied"], str(toml), rows_folder / "scores")
    nodes = {name: split.positions["decoder"] / split.examples for name, split in store.manifest.splits.items()}
    assert nodes["train"] < nodes["validation"] / 3
    result = train_store(tmp_path / "s", tmp_path / "run", GRID[:1], RUN)[0]
    assert set(result.test_details) == {"pearson", "spearman"}


def test_the_worse_half_stops_and_the_others_are_as_they_would_have_been(tmp_path, words_store) -> None:
    run = RunConfig(epochs=4, batch_size=8)
    networks = [network(cell="rnn", hidden=8, learning_rate=rate) for rate in (1e-4, 1e-3, 1e-2)]
    all_of_them = train_store(words_store, tmp_path / "all", networks, run)
    halved = train_store(words_store, tmp_path / "halved", networks, run.replaced(halving=1))
    worst = min(all_of_them, key=lambda result: result.history[0].score)
    first = [result for result in halved if result.stop is StopReason.halving and result.epochs == 1]
    assert [(result.network, result.stop_detail) for result in first] == [(worst.network, "rank 3 of 3 after epoch 1")]
    for whole, half in zip(all_of_them, halved, strict=True):
        assert half.history == whole.history[: half.epochs]
    assert sorted(result.epochs for result in halved) == [1, 2, 4]


def test_groups_of_networks_are_work_units_of_any_engine(tmp_path, words_store, monkeypatch) -> None:
    """Two workers train two groups, each with a checkpoint of its own; the results are those of one."""
    units: list[list[str]] = []

    class Two(LocalEngine):
        workers = 2

        def map(self, make_worker, items):
            units.extend([config.name for config in group.networks] for group in items)
            return super().map(make_worker, items)

    monkeypatch.setitem(ENGINES, "two", Two)
    one = train_store(words_store, tmp_path / "one", GRID[:3], RUN)
    two = train_store(words_store, tmp_path / "two", GRID[:3], RUN, engine="two")
    assert units == [[config.name for config in GRID[:2]], [GRID[2].name]]
    assert [result.history for result in two] == [result.history for result in one]
    assert [result.network for result in two] == [config.name for config in GRID[:3]]
    assert not list(tmp_path.rglob("checkpoint*"))
    with pytest.raises(UserError, match=r"halving is 1 .* in 2 groups: set halving to 0, or workers to 1"):
        train_store(words_store, tmp_path / "halved", GRID[:3], RUN.replaced(halving=1), engine="two")


def test_where_a_run_computes_does_not_change_its_results(tmp_path, words_store) -> None:
    held = train_store(words_store, tmp_path / "held", GRID[:1], RUN)
    streamed = train_store(words_store, tmp_path / "streamed", GRID[:1], RUN, memory=0.0005)
    assert streamed[0].history == held[0].history
    with pytest.raises(UserError, match="nowhere"):
        train_store(words_store, tmp_path / "other", GRID[:1], RUN, device="nowhere")
    with pytest.raises(UserError, match="memory"):
        Place(memory=0)


def test_a_watch_sees_every_batch_once_and_a_sentence_an_epoch(tmp_path, words_store) -> None:
    said: list[str] = []
    seen: list[tuple[str, int, int]] = []
    train_store(words_store, tmp_path, GRID[:2], RUN, Watch(said.append, lambda *facts: seen.append(facts)))
    assert seen == [("words", done, 10) for done in range(1, 11)]
    assert [line.partition(":")[0] for line in said] == ["words", "words epoch 1 of 2", "words epoch 2 of 2"]
    assert "2 networks" in said[0]
    train_store(words_store, tmp_path, GRID[:2], RUN, Watch(said.append, lambda *facts: pytest.fail("trained again")))
    assert len(said) == 4
