"""Networks that step together become what each would have been, within rounding, in whatever memory there is."""

import signal

import pytest
import torch

from read_cache.config import Place, RunConfig
from read_cache.scoring.heads import HeadSettings
from read_cache.store.folder import StoreFolder
from read_cache.training.from_store import FromStore
from read_cache.training.learner import Learner
from read_cache.training.results import StopReason
from read_cache.training.stack import Stack, networks_that_fit
from read_cache.watch import Watch
from support.operations import Operations
from support.training import network, train_store, weights

RUN = RunConfig(epochs=3, batch_size=8, precision="fp32")
LIKE = [network(hidden=8, learning_rate=rate, seed=seed) for rate in (1e-3, 5e-3) for seed in (0, 1)]
UNLIKE = [network(cell="rnn", hidden=8), network(learning_rate=3e-3, seed=4, hidden=8, dropout=0.2)]


def assert_alike(apart: list, stacked: list, tolerance: float) -> None:
    """The same networks with the same weights."""
    for one, other in zip(apart, stacked, strict=True):
        assert one.network == other.network
        for name, value in weights(one).items():
            torch.testing.assert_close(weights(other)[name], value, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("kind", "ema"), [("read", 0.0), ("read", 0.9), ("read_matching", 0.0)])
def test_stacked_networks_become_what_each_would_have_been(tmp_path, words_store, kind, ema) -> None:
    """Within rounding; another shape and a network with dropout step beside the stack, bit for bit."""
    settings = {"matching": 4} if kind == "read_matching" else {}
    like = [network(kind, hidden=8, learning_rate=n.learning_rate, seed=n.seed, **settings) for n in LIKE]
    run = RUN.replaced(ema=ema, weight_decay=0.5)
    apart = train_store(words_store, tmp_path / "apart", [*like, *UNLIKE], run, stack="off")
    stacked = train_store(words_store, tmp_path / "stacked", [*like, *UNLIKE], run, stack="on")
    assert_alike(apart[:4], stacked[:4], 1e-4)
    assert_alike(apart[4:], stacked[4:], 0.0)


def test_trainable_heads_and_ladders_are_stacked_with_their_networks(tmp_path, bert_store) -> None:
    head = HeadSettings(dropout=0, learning_rate=2e-3)
    networks = [
        network(kind, learning_rate=rate, **settings).replaced(head=head)
        for kind, settings in (("read", {"hidden": 8}), ("ladder", {"reduction": 8, "dropout": 0}), ("probe", {}))
        for rate in (1e-3, 5e-3)
    ]
    apart = train_store(bert_store, tmp_path / "apart", networks, RUN, stack="off")
    stacked = train_store(bert_store, tmp_path / "stacked", networks, RUN, stack="on")
    assert_alike(apart, stacked, 1e-4)


def test_a_stack_that_does_not_fit_is_halved_until_it_does(tmp_path, words_store, monkeypatch) -> None:
    """Memory for two networks at a time: four step as two and two, and the result is the same."""
    apart = train_store(words_store, tmp_path / "apart", LIKE, RUN, stack="off")
    original, sizes = Stack.losses, []

    def small(self, batch):
        sizes.append(len(self.learners))
        if len(self.learners) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, batch)

    monkeypatch.setattr(Stack, "losses", small)
    stacked = train_store(words_store, tmp_path / "stacked", LIKE, RUN, stack="on")
    assert_alike(apart, stacked, 1e-4)
    assert sizes.count(4) == RUN.epochs
    assert set(sizes) == {4, 2}


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, words_store, monkeypatch) -> None:
    def broken(self, batch):
        raise RuntimeError("shapes")

    monkeypatch.setattr(Stack, "losses", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        train_store(words_store, tmp_path, LIKE, RUN, stack="on")


def test_stacks_are_sized_by_the_free_memory(tmp_path, words_store, monkeypatch) -> None:
    """Memory for two networks and a half: stacks of two from the first batch on. For less than one: each alone."""
    apart = train_store(words_store, tmp_path / "apart", LIKE, RUN, stack="off")
    original, sizes, needed = Stack.losses, [], []

    def counting(self, batch):
        sizes.append(len(self.learners))
        return original(self, batch)

    def measured(learner, batch):
        monkeypatch.setattr("read_cache.training.stack.free_device_bytes", lambda device: 1e12)
        needed.append(1e12 // networks_that_fit(learner, batch))
        monkeypatch.setattr("read_cache.training.stack.free_device_bytes", lambda device: share * needed[-1])
        return networks_that_fit(learner, batch)

    monkeypatch.setattr(Stack, "losses", counting)
    monkeypatch.setattr("read_cache.training.stack.networks_that_fit", measured)
    for share, expected in ((2.5, {2}), (0.5, set())):
        sizes.clear()
        stacked = train_store(words_store, tmp_path / str(share), LIKE, RUN, stack="on")
        assert_alike(apart, stacked, 1e-4)
        assert set(sizes) == expected
    weights_bytes = 4 * apart[0].parameters
    assert all(3 * weights_bytes < size < 1000 * weights_bytes for size in needed)


def test_a_loss_that_is_not_finite_stops_one_of_a_stack(tmp_path, words_store, monkeypatch) -> None:
    original = Learner.count_step

    def poisoned(self, loss, examples):
        original(self, loss * float("inf") if self.config.seed == 9 and self.step == 3 else loss, examples)

    monkeypatch.setattr(Learner, "count_step", poisoned)
    networks = [network(cell="rnn", hidden=8, learning_rate=1e-3, seed=seed) for seed in (0, 9, 1)]
    results = train_store(words_store, tmp_path, networks, RUN, stack="on")
    assert [result.stop for result in results] == [
        StopReason.all_epochs,
        StopReason.diverged,
        StopReason.all_epochs,
    ]
    assert results[1].stop_detail == "the loss became inf at step 3"


def test_clipping_and_adamw_take_no_more_operations_for_more_networks(words_store) -> None:
    """On a GPU each operation is a kernel launch (DEFECTS 16)."""
    counts = []
    for size in (2, 8):
        setup, networks = FromStore(StoreFolder(words_store)), [network(hidden=8, seed=seed) for seed in range(size)]
        stack = Stack(setup.prepare(networks, RUN, Place()).learners, measured=True)
        for weight in stack.weights.values():
            weight.grad = torch.ones_like(weight)
        with Operations() as operations:
            stack.update()
        counts.append(operations.count)
    assert counts[0] == counts[1] < 25 * len(stack.weights)


def test_an_interrupted_stack_ends_bit_for_bit_as_one_that_was_not(tmp_path, words_store) -> None:
    whole = train_store(words_store, tmp_path / "whole", LIKE, RUN, stack="on")

    def stop(task: str, done: int, total: int) -> None:
        if done == 8:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_store(words_store, tmp_path / "parts", LIKE, RUN, Watch(progress=stop), stack="on")
    parts = train_store(words_store, tmp_path / "parts", LIKE, RUN, stack="on")
    assert_alike(whole, parts, 0.0)
    assert [result.history for result in parts] == [result.history for result in whole]
