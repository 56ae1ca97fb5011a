"""Callbacks get each epoch and network once and change nothing; loggers write what the results say."""

import builtins
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import read_cache
from read_cache.errors import UserError
from read_cache.training.callbacks import LOGGERS, reporting
from read_cache.training.results import Result, read_results
from read_cache.watch import Watch
from support.processes import contents

RUN: dict[str, Any] = {"network": ["read", "probe"], "cell": "rnn", "hidden": 4, "epochs": 3, "batch_size": 8}


class Notes(read_cache.Callback):
    """Note what is called, and draw from torch's generator, which must not change the training."""

    def __init__(self) -> None:
        self.epochs: list[tuple[str, int]] = []
        self.ended: list[Result] = []
        self.ends: list[list[Result]] = []

    def on_epoch(self, result: Result) -> None:
        torch.rand(3)
        assert len(result.history) == result.epochs
        assert result.test is None
        self.epochs.append((result.network, result.epochs))

    def on_network_end(self, result: Result) -> None:
        self.ended.append(result)

    def on_end(self, results: Sequence[Result]) -> None:
        self.ends.append([*results])


class Broken(read_cache.Callback):
    """Fail at the second call."""

    calls = 0

    def on_epoch(self, result: Result) -> None:
        self.calls += 1
        if self.calls == 2:
            raise OSError("no space")


@dataclasses.dataclass
class Equal(Broken):
    """Equal to every other one."""

    calls: int = dataclasses.field(default=0, compare=False)


def networks_of(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(out).items() if name.endswith(".safetensors")}


def train_in_two_calls(store: Path, out: Path, callbacks: Sequence[Any], later: Sequence[Any] | None = None) -> None:
    """Train, stop within the third epoch, and go on in a second call."""
    steps = iter(range(100))
    stop = Watch(stopped=lambda: next(steps) == 11)
    with pytest.raises(KeyboardInterrupt):
        read_cache.train(store, out, callbacks=callbacks, watch=stop, **RUN)
    read_cache.train(store, out, callbacks=callbacks if later is None else later, **RUN)


def test_an_interrupted_run_reports_each_epoch_once_and_trains_the_same(words_store, tmp_path) -> None:
    read_cache.train(words_store, tmp_path / "plain", **RUN)
    notes, broken, said = Notes(), Broken(), list[str]()
    train_in_two_calls(words_store, tmp_path / "noted", [notes])
    read_cache.train(words_store, tmp_path / "broken", callbacks=[broken], watch=Watch(said.append), **RUN)
    results = read_results(tmp_path / "noted")
    assert sorted(notes.epochs) == sorted((result.network, number) for result in results for number in (1, 2, 3))
    assert notes.ended == results
    assert notes.ends == [[], results]
    assert broken.calls == 2
    assert len([text for text in said if "Broken.on_epoch" in text and "no space" in text]) == 1
    assert networks_of(tmp_path / "noted") == networks_of(tmp_path / "broken") == networks_of(tmp_path / "plain")


def test_a_finished_run_reports_no_epoch_again(words_store, tmp_path) -> None:
    results = read_cache.train(words_store, tmp_path, **RUN).results
    notes = Notes()
    read_cache.train(words_store, tmp_path, callbacks=[notes], **RUN)
    assert (notes.epochs, notes.ended, notes.ends) == ([], [], [results])


def test_of_equal_callbacks_only_the_one_that_failed_is_dropped(tmp_path) -> None:
    first, second = Equal(-9), Equal()
    with reporting([first, second], tmp_path, Watch(print)) as watch:
        for _ in range(4):
            watch.event("on_epoch", None)
    assert (first.calls, second.calls) == (-5, 2)


def test_without_a_watch_a_failed_callback_is_a_warning(tmp_path) -> None:
    """Messages go nowhere then: the callback ended in silence."""
    with reporting(Equal(1), tmp_path, Watch()) as watch, pytest.warns(UserWarning, match="no space"):
        watch.event("on_epoch", None)


def test_one_callback_needs_no_list(words_store, tmp_path, monkeypatch) -> None:
    notes = Notes()
    monkeypatch.setitem(LOGGERS, "notes", lambda out: notes)
    for name, callback in (("object", notes), ("name", "notes")):
        results = read_cache.train(words_store, tmp_path / name, callbacks=callback, **RUN).results
        assert notes.ends.pop() == results


def test_comparisons_report_too(words_store, tmp_path) -> None:
    notes = Notes()
    read_cache.compare(words_store, tmp_path, method="probe", epochs=1, batch_size=8, callbacks=[notes])
    (result,) = read_results(tmp_path)
    assert (notes.epochs, notes.ended, notes.ends) == ([(result.network, 1)], [result], [[result]])


def test_a_logger_that_cannot_be_used_is_refused_before_training(words_store, tmp_path, monkeypatch) -> None:
    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.partition(".")[0] in ("mlflow", "wandb", "tensorboard") or "tensorboard" in name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *args, **named)

    imported = builtins.__import__
    with pytest.raises(UserError, match="tensorboard, mlflow, wandb"):
        read_cache.train(words_store, tmp_path, callbacks=["comet"], **RUN)
    monkeypatch.setattr(builtins, "__import__", without)
    for name in LOGGERS:
        with pytest.raises(UserError, match=rf"read-cache\[{name}\]"):
            read_cache.train(words_store, tmp_path, callbacks=[name], **RUN)
    assert not (tmp_path / "results.jsonl").exists()


def expected(results: Sequence[Result]) -> dict[str, list[float]]:
    return {result.network: [epoch.validation for epoch in result.history] for result in results}


def test_tensorboard_has_one_folder_and_a_tag_for_each_network(words_store, tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'read-cache[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_in_two_calls(words_store, tmp_path, ["tensorboard"])
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    results = read_results(tmp_path)
    for result in results:
        tag = f"{Path(result.folder).relative_to(tmp_path)}"
        seen = log.Scalars(f"validation/{tag}")
        assert [event.step for event in seen] == [1, 2, 3]
        assert [event.value for event in seen] == pytest.approx(expected(results)[result.network])
        assert log.Scalars(f"test/{tag}")[0].value == pytest.approx(result.test)
    assert [path for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()] == []


@pytest.fixture
def mlflow(tmp_path, monkeypatch) -> Iterator[Any]:
    """MLflow with a store of files in a folder of the test."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'read-cache[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "tracking").as_uri())
    yield mlflow
    mlflow.set_tracking_uri(before)


def test_mlflow_has_a_parent_and_a_child_for_each_network(words_store, tmp_path, mlflow) -> None:
    train_in_two_calls(words_store, tmp_path / "it's", ["mlflow"])
    results = {result.network: result for result in read_results(tmp_path / "it's")}
    runs = mlflow.search_runs(output_format="list")
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert children.keys() == results.keys()
    for name, run in children.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "validation")
        assert {metric.step: metric.value for metric in history} == dict(enumerate(expected([results[name]])[name], 1))
        assert len(history) == 3
        assert run.data.metrics["test"] == results[name].test
        assert run.data.params["kind"] == results[name].kind
        assert run.info.status == "FINISHED"
    assert parent.info.status == "FINISHED"
    assert mlflow.active_run() is None


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline run's file: LevelDB's log format with 7 bytes before it."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, pieces = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header begins at a block's end
            at += 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        pieces, at = pieces + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(pieces)
            pieces = b""


def test_wandb_writes_offline_a_run_for_each_network(words_store, tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'read-cache[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_in_two_calls(words_store, tmp_path, ["wandb"])
    validation, runs, tests = dict[str, list[float]](), dict[str, set[str]](), dict[str, float]()
    for path in sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb")):
        name = ""
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                name = record.run.display_name
                runs.setdefault(name, set()).add(record.run.run_id)
                assert record.run.run_group == str(tmp_path)
            for item in record.history.item:
                if "validation" in (item.key, *item.nested_key):
                    validation.setdefault(name, []).append(float(item.value_json))
            for item in record.summary.update:
                if "test" in (item.key, *item.nested_key):
                    tests[name] = float(item.value_json)
    results = read_results(tmp_path)
    assert validation == {name: pytest.approx(values) for name, values in expected(results).items()}
    assert tests == {result.network: pytest.approx(result.test) for result in results}
    assert [len(ids) for ids in runs.values()] == [1, 1]
