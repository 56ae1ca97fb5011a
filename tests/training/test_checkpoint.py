"""Stopped at any moment, the same call continues, and ends with the same bytes as if nothing had happened."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from read_cache.config import RunConfig
from read_cache.errors import UserError
from read_cache.store.folder import StoreFolder
from read_cache.store.lock import locked
from read_cache.store.reader import StoreReader
from read_cache.training import checkpoint as checkpoints
from read_cache.training import loop
from read_cache.training.checkpoint import Checkpoint
from read_cache.training.from_store import FromStore
from read_cache.training.recipe import Recipe, load_recipe
from read_cache.training.results import StopReason, append_results, read_results
from read_cache.training.run import networks_folder, run_sweep
from read_cache.watch import Watch
from support.processes import contents, interrupt
from support.training import main, network, train_store

RUN = RunConfig(epochs=2, batch_size=8)
GRID = [
    network(cell="gru", hidden=8, learning_rate=2e-3, dropout=0.1),
    network("ladder", reduction=4),
    network("probe", learning_rate=5e-3),
]
HALVED = "[network]\ncell = 'rnn'\nhidden = [2, 4]\nlearning_rate = [0.001, 0.02]\n[run]\nepochs = 3\nhalving = 1\n"


def place(out: Path, store: Path) -> Path:
    """The folder of a store's networks."""
    return networks_folder(out, StoreFolder(store).read_manifest())


def assert_same(one: list, other: list) -> None:
    """The same networks, histories and bytes."""
    for first, second in zip(one, other, strict=True):
        assert (first.network, first.history) == (second.network, second.history)
        assert contents(Path(first.folder)) == contents(Path(second.folder))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_interrupt_inside_an_epoch_loses_nothing(tmp_path, words_store, ema) -> None:
    """Ctrl-C after some batches of the second epoch: the same call continues with the next batch, to the same bits."""
    run = RUN.replaced(ema=ema)
    whole = train_store(words_store, tmp_path / "whole", GRID, run)
    moment = -(-StoreReader(words_store).split("train").examples // RUN.batch_size) + 2
    seen: list[int] = []

    def stop(task: str, done: int, total: int) -> None:
        seen.append(done)
        if done == moment:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_store(words_store, tmp_path / "again", GRID, run, Watch(progress=stop))
        again = train_store(words_store, tmp_path / "again", GRID, run, Watch(progress=stop))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == sorted(set(seen))
    assert seen[-1] == 2 * (moment - 2)
    assert_same(whole, again)


def test_killed_after_an_epoch(tmp_path, words_store) -> None:
    settings = {"kind": ["read", "probe"], "hidden": 8, "dropout": 0.1, "learning_rate": 2e-3}
    run = {"epochs": 10, "patience": 10, "batch_size": 8}
    sweep = Recipe().override(settings | run).sweep("words")
    whole = train_store(words_store, tmp_path / "whole", sweep.networks(), sweep.run)
    killed = tmp_path / "killed"
    checkpoint = place(killed, words_store) / "checkpoint.safetensors"
    code, _ = interrupt([words_store, killed, json.dumps(settings | run)], checkpoint.exists, signal.SIGKILL, main)
    assert code == -signal.SIGKILL
    assert not [path for path in contents(killed) if path.endswith(("config.json", "results.jsonl"))]
    seen: list[tuple[int, int]] = []
    watch = Watch(progress=lambda task, done, total: seen.append((done, total)))
    again = train_store(words_store, killed, sweep.networks(), sweep.run, watch)
    total = seen[0][1]
    assert [done for done, _ in seen] == list(range(seen[0][0], total + 1))
    assert seen[0][0] > total // 10, "the first epoch is not trained again"
    assert not checkpoint.exists()
    assert_same(whole, again)


def test_a_checkpoint_inside_an_epoch_is_written_when_it_is_due(tmp_path, words_store, monkeypatch) -> None:
    whole = train_store(words_store, tmp_path / "whole", GRID, RUN)
    monkeypatch.setattr(checkpoints, "SAVE_EVERY", 0.0)

    def fail(task: str, done: int, total: int) -> None:
        if done == 3:
            raise MemoryError

    with pytest.raises(UserError):
        train_store(words_store, tmp_path / "again", GRID, RUN, Watch(progress=fail))
    seen: list[int] = []
    again = train_store(
        words_store, tmp_path / "again", GRID, RUN, Watch(progress=lambda *facts: seen.append(facts[1]))
    )
    assert seen == list(range(4, 11))
    assert_same(whole, again)


def test_a_checkpoint_of_another_run_or_device_is_refused(tmp_path, words_store) -> None:
    def stop(task: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_store(words_store, tmp_path, GRID[:1], RUN, Watch(progress=stop))
    path = place(tmp_path, words_store) / "checkpoint.safetensors"
    for networks, run in ((GRID[1:2], RUN), (GRID[:1], RUN.replaced(epochs=3))):
        with pytest.raises(UserError, match=str(path)):
            train_store(words_store, tmp_path, networks, run)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        metadata = {"json": file.metadata()["json"].replace('"device": "cpu"', '"device": "cuda"')}
    tensors[f"{GRID[0].name}/generator"] = torch.zeros(16, dtype=torch.uint8)  # the size of CUDA's
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=rf"{path}.* device \(this one is cpu\)"):
        train_store(words_store, tmp_path, GRID[:1], RUN)
    tensors[f"{GRID[0].name}/model.network.U"] = torch.zeros(3)
    save_file(tensors, path, {"json": metadata["json"].replace('"device": "cuda"', '"device": "cpu"')})
    with pytest.raises(UserError, match=f"{path} is damaged"):
        train_store(words_store, tmp_path, GRID[:1], RUN)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{path} is damaged"):
        train_store(words_store, tmp_path, GRID[:1], RUN)


def test_the_time_left_counts_the_steps_of_this_session_alone(tmp_path, words_store, monkeypatch) -> None:
    run, taken, lines = RUN.replaced(epochs=3), [0], list[str]()
    monkeypatch.setattr(checkpoints, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(taken[0])))

    def step(task: str, done: int, total: int) -> None:
        taken[0] += 1  # a second each
        if not lines and done == total // 3 - 1:
            lines.append(f"{total // 3}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_store(words_store, tmp_path, GRID[:1], run, Watch(progress=step))
    train_store(words_store, tmp_path, GRID[:1], run, Watch(lines.append, step))
    (first,) = [line for line in lines if "epoch 1 of 3" in line]
    assert f"at most {2 * int(lines[0])} s left" in first


def test_two_runs_do_not_train_the_same_networks_at_once(tmp_path, words_store) -> None:
    """The second is refused and leaves nothing; a lock that a killed run left is free."""
    folder = place(tmp_path, words_store)
    folder.mkdir(parents=True)
    lock = folder / "training.lock"
    with locked(lock):
        with pytest.raises(UserError, match=f"{folder}.*process {os.getpid()}"):
            train_store(words_store, tmp_path, GRID[:1], RUN)
        assert list(folder.iterdir()) == [lock]
    lock.touch()
    train_store(words_store, tmp_path, GRID[:1], RUN)
    assert not lock.exists()


def test_a_run_killed_after_its_last_result_leaves_nothing_in_the_way(tmp_path, words_store, monkeypatch) -> None:
    """Its checkpoint is removed by the same call, which trains nothing; another grid trains there."""
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "remove", lambda self: None)
        first = train_store(words_store, tmp_path, GRID[:1], RUN)
    path, results = place(tmp_path, words_store) / "checkpoint.safetensors", (tmp_path / "results.jsonl").read_bytes()
    left = path.read_bytes()
    watch = Watch(progress=lambda *_: pytest.fail("trained again"))
    assert train_store(words_store, tmp_path, GRID[:1], RUN, watch) == first
    assert not path.exists()
    assert (tmp_path / "results.jsonl").read_bytes() == results
    path.write_bytes(left)
    train_store(words_store, tmp_path, GRID[1:2], RUN)
    assert len(read_results(tmp_path)) == 2


@pytest.mark.parametrize("left", [1, 30])
def test_a_result_whose_line_was_cut_short_is_made_again(left, tmp_path, words_store) -> None:
    first, second = GRID[0], GRID[2]
    expected = train_store(words_store, tmp_path, [first], RUN) + train_store(words_store, tmp_path, [second], RUN)
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-left])
    assert read_results(tmp_path) == expected[:1]
    train_store(words_store, tmp_path, [first, second], RUN)
    assert [result.history for result in read_results(tmp_path)] == [result.history for result in expected]


def test_a_damaged_line_is_named(tmp_path, words_store) -> None:
    train_store(words_store, tmp_path, GRID[:1], RUN)
    path = tmp_path / "results.jsonl"
    for line in (b"{'a'}\n", b"[]\n", b'{"network": "x"}\n'):
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0] + line)
        with pytest.raises(UserError, match=f"{path}, line 2"):
            read_results(tmp_path)


def test_a_run_continues_whose_results_were_written_in_part(words_store, tmp_path, monkeypatch) -> None:
    """A full disk or a kill leaves some networks with results, and all of them in the checkpoint."""
    undisturbed = train_store(words_store, tmp_path / "whole", GRID[:2], RUN)

    def in_part(out: Path, results: list) -> None:
        append_results(out, results[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("read_cache.training.run.append_results", in_part)
        with pytest.raises(KeyboardInterrupt):
            train_store(words_store, tmp_path / "cut", GRID[:2], RUN)
    assert [result.network for result in read_results(tmp_path / "cut")] == [GRID[0].name]
    assert list((tmp_path / "cut").rglob("checkpoint.safetensors"))
    assert_same(undisturbed, train_store(words_store, tmp_path / "cut", GRID[:2], RUN))
    assert not list((tmp_path / "cut").rglob("checkpoint.safetensors"))


def test_the_best_of_a_halved_grid_is_trained_on_and_nothing_twice(tmp_path, words_store) -> None:
    (tmp_path / "mine.toml").write_text(HALVED + "batch_size = 8\n[search]\nfinal_seeds = [0, 1]\n")
    sweep, setup = load_recipe(str(tmp_path / "mine.toml")).sweep("words"), FromStore(StoreFolder(words_store))
    results, final = run_sweep(setup, sweep, tmp_path / "run")
    stops = [(result.stop, result.epochs) for result in results[:4]]
    halving, all_epochs = StopReason.halving, StopReason.all_epochs
    assert sorted(stops) == [(all_epochs, 3), (halving, 1), (halving, 1), (halving, 2)]
    assert [(result.seed, result.stop) for result in final] == [(0, all_epochs), (1, all_epochs)]
    assert final[0] in results
    assert final[0].configuration == final[1].configuration
    assert run_sweep(setup, sweep, tmp_path / "run") == (results, final)
    assert len(read_results(tmp_path / "run")) == len(results) == 5
