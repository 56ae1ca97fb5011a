"""Training: alone or together the same, the same every time, and one network's trouble is its own."""

import dataclasses
import json
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from conftest import make_store, run_cli
from read_cache.loader.batches import SplitBatches
from read_cache.networks.config import ReadConfig
from read_cache.networks.saved import load_network
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import StoreReader
from read_cache.train.grid import NetworkConfig, TrainConfig, grid
from read_cache.train.learner import Learner
from read_cache.train.loop import Progress
from read_cache.train.results import read_results
from read_cache.train.run import train_store

RUN = TrainConfig(epochs=2, batch_size=8)
GRID = [
    NetworkConfig(ReadConfig("rnn", 8)),
    NetworkConfig(ReadConfig("gru", 8, dropout=0.2), learning_rate=3e-3, seed=4),
    NetworkConfig(ReadConfig("lstm", 12, recurrent=False, aggregate="mean")),
]


def weights(result: dict) -> dict[str, torch.Tensor]:
    """The saved weights of a result."""
    return load_file(f"{result['folder']}/model.safetensors")


def test_each_network_is_what_it_would_have_been_alone(tmp_path, words_store) -> None:
    together = train_store(StoreFolder(words_store), tmp_path / "together", GRID, RUN)
    for network, result in zip(GRID, together, strict=True):
        alone = train_store(StoreFolder(words_store), tmp_path / network.name, [network], RUN)[0]
        assert alone["history"] == result["history"]
        assert all(torch.equal(value, weights(alone)[name]) for name, value in weights(result).items())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_learns_what_it_is_shown(tmp_path, words_store, precision) -> None:
    run = TrainConfig(epochs=25, batch_size=8, patience=25, precision=precision)
    result = train_store(
        StoreFolder(words_store), tmp_path, [NetworkConfig(ReadConfig("gru", 32), learning_rate=5e-3)], run
    )[0]
    assert result["history"][-1]["train_loss"] < 0.5 * result["history"][0]["train_loss"]


def test_a_loss_that_is_not_finite_stops_that_network_alone(tmp_path, words_store, monkeypatch) -> None:
    original = Learner.train_step

    def poisoned(self, batch, head):
        if self.config.seed == 9 and self.step == 3:
            torch.nn.init.constant_(self.network.U, float("nan"))
        original(self, batch, head)

    monkeypatch.setattr(Learner, "train_step", poisoned)
    networks = grid([ReadConfig("rnn", 8)], [1e-3], [0, 9])
    healthy, sick = train_store(StoreFolder(words_store), tmp_path, networks, RUN)
    assert "loss became nan at step 3" in sick["stopped"]
    assert healthy["stopped"] == "all epochs done"
    assert sick["validation"] is None
    assert not (Path(sick["folder"])).exists()


def test_results_are_not_made_twice(tmp_path, words_store, monkeypatch) -> None:
    first = train_store(StoreFolder(words_store), tmp_path, GRID[:1], RUN)
    monkeypatch.setattr(SplitBatches, "epoch", lambda *_: pytest.fail("trained again"))
    assert train_store(StoreFolder(words_store), tmp_path, GRID[:1], RUN) == first
    assert len(read_results(tmp_path)) == 1


def test_early_stopping_keeps_the_best_epoch(tmp_path, words_store) -> None:
    run = TrainConfig(epochs=12, batch_size=8, patience=2)
    result = train_store(StoreFolder(words_store), tmp_path, [NetworkConfig(ReadConfig("rnn", 8), 0.02)], run)[0]
    history, best = result["history"], result["best_epoch"] - 1
    assert result["validation"] == history[best]["validation"] == max(entry["validation"] for entry in history)
    assert len(history) <= best + 1 + run.patience


def test_saved_networks_come_back_as_they_were(tmp_path, words_store) -> None:
    result = train_store(StoreFolder(words_store), tmp_path, GRID[1:2], RUN)[0]
    saved = load_network(result["folder"])
    network, record = saved.network, saved.record
    assert record.read == GRID[1].read
    assert record.backbone_digest == StoreReader(words_store).manifest.backbone.digest
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in weights(result).items())
    assert "READ side network" in (Path(result["folder"]) / "README.md").read_text()


def test_a_grid_is_the_product_without_repeats_and_names_differ() -> None:
    reads = [ReadConfig(cell, hidden) for cell in ("rnn", "gru") for hidden in (8, 16)]
    reads += [dataclasses.replace(reads[0], recurrent=False), dataclasses.replace(reads[0], aggregate="mean")]
    reads += [dataclasses.replace(reads[0], initial_state="zero"), dataclasses.replace(reads[0], dropout=0.1)]
    reads += [dataclasses.replace(reads[0], standardize=False)]
    networks = grid([*reads, reads[0]], [1e-3, 1e-4], [0, 1, 1])
    assert len(networks) == len(reads) * 2 * 2
    assert len({network.name for network in networks}) == len(networks)


def test_scores_are_trained_and_evaluated_over_the_whole_trie(tmp_path, models, rows_folder) -> None:
    toml = tmp_path / "scores.toml"
    toml.write_text(
        'template = "scores: {sentence1} {sentence2}"\nmetric = "pearson_spearman"\nscores = true\nlabels = '
        + str([f"{step / 5:.1f}" for step in range(26)]).replace("'", '"')
    )
    store = make_store(tmp_path / "s", models["tied"], str(toml), rows_folder / "scores")
    assert store.manifest.splits["train"].nodes < store.manifest.splits["validation"].nodes * 4
    result = train_store(StoreFolder(tmp_path / "s"), tmp_path / "run", GRID[:1], RUN)[0]
    assert set(result["test_details"]) == {"pearson", "spearman"}


def test_an_interrupt_inside_an_epoch_loses_nothing(tmp_path, words_store) -> None:
    """Ctrl-C after some batches of the second epoch: the same call goes on with the next batch, to the same bits."""
    whole = train_store(StoreFolder(words_store), tmp_path / "whole", GRID, RUN)
    moment = -(-StoreReader(words_store).split("train").examples // RUN.batch_size) + 2
    seen: list[int] = []

    def interrupt(task: str, done: int, total: int) -> None:
        seen.append(done)
        if done == moment:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_store(StoreFolder(words_store), tmp_path / "again", GRID, RUN, progress=Progress(batch=interrupt))
        again = train_store(StoreFolder(words_store), tmp_path / "again", GRID, RUN, progress=Progress(batch=interrupt))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == sorted(set(seen))
    assert seen[-1] == 2 * (moment - 2)
    for one, other in zip(whole, again, strict=True):
        assert one["history"] == other["history"]
        assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def test_stacked_networks_become_what_each_would_have_been(tmp_path, words_store) -> None:
    """Within rounding; another shape and a network with dropout step beside the stack, bit for bit."""
    run = TrainConfig(epochs=3, batch_size=8, precision="fp32")
    networks = [*grid([ReadConfig("gru", 8, matching=4)], [1e-3, 5e-3], [0, 1]), *GRID[:2]]
    apart = train_store(StoreFolder(words_store), tmp_path / "apart", networks, run, stacking="off")
    stacked = train_store(StoreFolder(words_store), tmp_path / "stacked", networks, run, stacking="on")
    for number, (one, other) in enumerate(zip(apart, stacked, strict=True)):
        assert one["network"] == other["network"]
        for name, value in weights(one).items():
            tolerance = 1e-4 if number < 4 else 0.0
            torch.testing.assert_close(weights(other)[name], value, atol=tolerance, rtol=tolerance)


def test_a_loss_that_is_not_finite_stops_one_of_a_stack(tmp_path, words_store, monkeypatch) -> None:
    original = Learner.update

    def poisoned(self, loss, examples):
        original(self, float("inf") if self.config.seed == 9 and self.step == 3 else loss, examples)

    monkeypatch.setattr(Learner, "update", poisoned)
    networks = grid([ReadConfig("rnn", 8)], [1e-3], [0, 9, 1])
    results = train_store(StoreFolder(words_store), tmp_path, networks, RUN, stacking="on")
    assert [result["stopped"] for result in results] == [
        "all epochs done",
        "loss became inf at step 3",
        "all epochs done",
    ]


def test_the_worse_half_is_dropped_and_the_others_are_as_they_would_have_been(tmp_path, words_store) -> None:
    run, networks = TrainConfig(epochs=4, batch_size=8), grid([ReadConfig("rnn", 8)], [1e-4, 1e-3, 1e-2], [0])
    all_of_them = train_store(StoreFolder(words_store), tmp_path / "all", networks, run)
    halved = train_store(StoreFolder(words_store), tmp_path / "halved", networks, dataclasses.replace(run, halving=1))
    best = sorted(all_of_them, key=lambda r: max((e["validation"], -e["validation_loss"]) for e in r["history"][:1]))
    dropped = [result for result in halved if result["stopped"] == "dropped at epoch 1: rank 3 of 3"]
    assert [result["network"] for result in dropped] == [best[0]["network"]]
    assert [len(result["history"]) for result in dropped] == [1]
    for whole, half in zip(all_of_them, halved, strict=True):
        assert half["history"] == whole["history"][: len(half["history"])]
    assert sorted(len(result["history"]) for result in halved) == [1, 2, 4]


def test_tensorboard_scalars_are_the_history(tmp_path, words_store) -> None:
    done = run_cli("train", "--store", words_store, "--out", tmp_path, "--cell", "rnn", "--hidden", 8, "--epochs", 2,
                   "--tensorboard", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(
        str(tmp_path / "tensorboard" / Path(result["folder"]).parent.name / result["network"])
    ).Reload()
    for name in ("train_loss", "validation_loss", "validation"):
        expected = [pytest.approx(entry[name]) for entry in result["history"]]
        assert [(event.step, event.value) for event in events.Scalars(name)] == list(enumerate(expected, start=1))
    meters = result["meters_for_all_networks"]
    assert meters["wall_seconds"] > 0
    assert "cpu" in meters["device_energy_joules"]["not_measured"]


def test_a_log_says_how_long_training_will_take_with_its_validation(monkeypatch, capsys) -> None:
    """At most: networks that stop early leave time over. A run that goes on counts what it has done itself."""
    from read_cache.cli import output
    from read_cache.cli.training import Watch

    now = [0.0]
    monkeypatch.setattr(output.stderr, "get_time", lambda: now[0])
    entry = {"train_loss": 1.0, "validation_loss": 1.0, "validation": 50.0}
    learner = SimpleNamespace(best={"w": 1}, best_epoch=0, history=[entry], stopped="", score=lambda epoch: 0)
    watch = Watch("store", "words-0123", None)
    with watch.shown():
        watch.begin("words", 1, "held in memory")
        for epoch in (2, 3):  # the first was done before
            for batch in range(10):
                now[0] += 1.0
                watch.after_batch("words", (epoch - 1) * 10 + batch + 1, 40)
            now[0] += 90.0
            watch.after_epoch("words", epoch, 4, [learner])
    told = [line for line in capsys.readouterr().err.splitlines() if "left at most" in line]
    assert told == [
        "words epoch 2: 1 training, best 50.00, 200 s left at most",
        "words epoch 3: 1 training, best 50.00, 100 s left at most",
    ]
