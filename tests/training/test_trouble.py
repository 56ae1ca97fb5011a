"""Training when something goes wrong: one network's trouble is its own, and every message names a setting."""

from pathlib import Path

import pytest
import torch

from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.networks.saved import load_network
from read_cache.scoring.heads import HeadSettings
from read_cache.store.folder import StoreFolder
from read_cache.training import from_store
from read_cache.training.from_store import FromStore
from read_cache.training.learner import Learner
from read_cache.training.recipe import Recipe
from read_cache.training.results import StopReason, read_results
from read_cache.training.run import run_sweep
from read_cache.watch import Watch
from support.training import network, train_store, weights

RUN = RunConfig(epochs=2, batch_size=8)
GRID = [network(cell="rnn", hidden=8)]


def poison(monkeypatch, seed: int = 9, step: int = 3) -> None:
    """Networks with this seed have NaN weights from this step on."""
    original = Learner.train_step

    def poisoned(self, batch):
        if self.config.seed == seed and self.step == step:
            with torch.no_grad():
                next(iter(self.parameters.values())).fill_(float("nan"))
        original(self, batch)

    monkeypatch.setattr(Learner, "train_step", poisoned)


def test_a_loss_that_is_not_finite_stops_that_network_alone(tmp_path, words_store, monkeypatch) -> None:
    networks = [network(cell="rnn", hidden=8, learning_rate=1e-3, seed=seed) for seed in (0, 9)]
    untroubled = train_store(words_store, tmp_path / "untroubled", networks[:1], RUN)[0]
    poison(monkeypatch)
    healthy, sick = train_store(words_store, tmp_path / "out", networks, RUN)
    assert (sick.stop, sick.stop_detail) == (StopReason.diverged, "the loss became nan at step 3")
    assert (sick.validation, sick.best_epoch, sick.history) == (None, 0, ())
    assert not Path(sick.folder).exists()
    assert healthy.stop is StopReason.all_epochs
    assert healthy.history == untroubled.history


def test_a_network_that_diverges_later_keeps_its_best_epoch(tmp_path, words_store, monkeypatch) -> None:
    poison(monkeypatch, step=7)  # of 5 an epoch
    sick = train_store(words_store, tmp_path, [network(hidden=8, seed=9)], RUN)[0]
    assert (sick.stop, sick.stop_detail) == (StopReason.diverged, "the loss became nan at step 7")
    assert (sick.best_epoch, sick.epochs) == (1, 1)
    assert all(value.isfinite().all() for value in weights(sick).values())
    assert load_network(sick.folder).record.scores["validation"] == sick.validation == sick.history[0].validation


def test_weights_that_the_last_step_of_an_epoch_spoils_are_never_the_best(tmp_path, words_store, monkeypatch) -> None:
    original = Learner.update

    def spoiled(self, loss, examples):
        original(self, loss, examples)
        if self.step == 5:
            next(iter(self.parameters.values())).data.fill_(float("inf"))

    monkeypatch.setattr(Learner, "update", spoiled)
    sick = train_store(words_store, tmp_path, [network(hidden=8)], RUN)[0]
    assert (sick.stop, sick.validation) == (StopReason.diverged, None)


def test_if_every_network_diverges_the_run_ends_with_the_likely_cause(tmp_path, words_store, monkeypatch) -> None:
    poison(monkeypatch)
    sweep = Recipe().override({"hidden": 8, "seed": 9, "epochs": 1, "batch_size": 8}).sweep("words")
    setup = FromStore(StoreFolder(words_store))
    for _ in range(2):  # the second finds the results
        with pytest.raises(UserError, match="learning_rate"):
            run_sweep(setup, sweep, tmp_path)
    assert len(read_results(tmp_path)) == 1
    mixed = Recipe().override({"hidden": 8, "seed": [8, 9], "epochs": 1, "batch_size": 8}).sweep("words")
    results, final = run_sweep(setup, mixed, tmp_path)
    assert [result.stop for result in results] == [StopReason.all_epochs, StopReason.diverged]
    assert final == []
    monkeypatch.setattr(from_store, "finite", lambda values: False)
    with pytest.raises(UserError, match="not finite, in train/encoder/hidden"):
        run_sweep(setup, sweep, tmp_path)


def test_too_little_memory_names_the_setting_to_lower(tmp_path, words_store, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"out of memory.*batch_size.*width"):
        train_store(words_store, tmp_path, [network(hidden=99_999_999)], RUN)
    original = Learner.train_step

    def exhausted(self, batch):
        if self.step == 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train_step", exhausted)
        with pytest.raises(UserError, match=r"batch_size .it is 8"):
            train_store(words_store, tmp_path, GRID, RUN)
    assert list(tmp_path.rglob("checkpoint.safetensors"))
    seen: list[int] = []
    again = train_store(words_store, tmp_path, GRID, RUN, Watch(progress=lambda task, done, total: seen.append(done)))
    assert seen == [6, 7, 8, 9, 10]
    whole = train_store(words_store, tmp_path / "whole", GRID, RUN)
    assert again[0].history == whole[0].history


def test_other_errors_of_torch_are_not_called_memory(tmp_path, words_store, monkeypatch) -> None:
    def broken(self, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Learner, "train_step", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        train_store(words_store, tmp_path, GRID, RUN)


def test_results_of_other_settings_are_not_overwritten(tmp_path, words_store) -> None:
    train_store(words_store, tmp_path, GRID, RUN)
    with pytest.raises(UserError, match=r"epochs.*2"):
        train_store(words_store, tmp_path, GRID, RUN.replaced(epochs=3))


def test_a_store_without_what_a_network_needs_is_refused_before_training(tmp_path, words_store) -> None:
    for config in (
        network(attention="heads"),
        network(layers="7"),
        network("probe").replaced(head=HeadSettings(kind="trie")),
        network().replaced(kind="reed"),
    ):
        with pytest.raises(UserError):
            train_store(words_store, tmp_path / "out", [*GRID, config], RUN)
    assert not (tmp_path / "out").exists()


def test_an_impossible_network_is_refused_before_any_is_trained(tmp_path, words_store, bert_store) -> None:
    """As are settings of a head that a frozen head does not have, where they make the same network twice."""
    pooled = network("probe").replaced(head=HeadSettings(pooling="apart"))
    wide = network("ladder", reduction=5)
    with pytest.raises(UserError, match="pooling"):
        train_store(words_store, tmp_path / "out", [*GRID, pooled], RUN)
    with pytest.raises(UserError, match="reduction"):
        train_store(bert_store, tmp_path / "out", [*GRID, wide], RUN)
    twice = [network(hidden=8).replaced(head=HeadSettings(dropout=dropout)) for dropout in (0.1, 0.2)]
    with pytest.raises(UserError, match=r"head\.kind"):
        train_store(words_store, tmp_path / "out", twice, RUN)
    assert not (tmp_path / "out").exists()
    FromStore(StoreFolder(bert_store)).check([*twice, pooled], StoreFolder(bert_store).read_manifest())


def test_results_do_not_go_into_a_store(words_store) -> None:
    before = sorted(words_store.rglob("*"))
    for out in (words_store, words_store / "runs"):
        with pytest.raises(UserError, match=str(words_store)):
            train_store(words_store, out, GRID, RUN)
    assert sorted(words_store.rglob("*")) == before


def test_a_network_that_trains_nothing_is_refused() -> None:
    from read_cache.scoring.heads import OpenHead
    from read_cache.training.learner import Candidate

    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UserError, match="trainable head"):
        Learner(Candidate(frozen, OpenHead(torch.zeros(3, 2))), GRID[0], RUN, 1)
