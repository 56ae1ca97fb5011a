"""An extraction keeps its readings beside the store's bytes; results have them."""

import json
from pathlib import Path

import pytest

from read_cache.meters.readings import Readings, read_sessions
from read_cache.store.files import LocalFiles
from read_cache.store.writer import StoreWriter
from support.processes import contents, run


def sessions_of(store: Path) -> Readings:
    """Return the sum of a store's sessions."""
    readings = read_sessions(LocalFiles(store))
    assert readings is not None
    return readings


def test_an_extraction_keeps_the_readings_of_an_interrupted_session_too(
    words_store: Path,
    models: dict[str, Path],
    rows_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, write_part, written = tmp_path / "store", StoreWriter.write_part, []

    def interrupted_write(self: StoreWriter, *arguments: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write_part(self, *arguments))

    command: list[object] = ["extract", "--model", models["tied"], "--task", rows_folder / "words.toml"]
    command += ["--dataset", rows_folder / "words", "--store", store]
    command += ["--set", "part_tokens=200", "--set", "batch_tokens=120", "--set", "p0=250"]
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_part", interrupted_write)
        code, _, err = run(command, monkeypatch, capsys)
        assert code == 130, err
    interrupted = sessions_of(store)
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert any(line.startswith("extract: ") and "in 2 sessions" not in line for line in err.splitlines())
    both = sessions_of(store)
    assert (interrupted.sessions, both.sessions) == (1, 2)
    assert both.wall_seconds > interrupted.wall_seconds
    assert both.p0_watts == 250
    assert contents(store) == contents(words_store)

    train = ["train", "--store", store, "--out", tmp_path / "run", "--hidden", 4, "--epochs", 1, "--json"]
    result = json.loads(run(train, monkeypatch, capsys)[1])[0]
    assert result["extraction"] == both.values()
    assert result["examples"] == {"train": 40, "validation": 12, "test": 9}
