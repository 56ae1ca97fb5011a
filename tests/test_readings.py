"""Readings of one stage in several sessions, where an extraction keeps them, and how people are told."""

import json
from pathlib import Path

import pytest

from boards import NEVER, Board, Clock, measure, why
from processes import contents, run
from read_cache.errors import StoreError
from read_cache.meters.meter import Meter
from read_cache.meters.readings import Readings
from read_cache.meters.sessions import KEEP_EVERY, SessionFile, read_sessions, sessions_json
from read_cache.meters.stage import meter_stage
from read_cache.meters.summary import summary
from read_cache.report.measured import measured
from read_cache.store.files import LocalFiles
from read_cache.store.writer import StoreWriter


def test_sessions_add_up_through_json() -> None:
    first = measure(Board([0, 50], joules=[0.0, 7.0]), [10.0], p0_watts=100)
    clock, board = Clock(), Board([0, 100], joules=[50.0, 60.0])
    with Meter("train", board, 100, period_seconds=NEVER, clock=clock) as meter:
        meter.go_on_from(Readings.from_json(json.loads(json.dumps(first.to_json()))))
        clock.now += 5
        board.peak = 30
    both = meter.read()
    assert (both.sessions, both.wall_seconds, both.device_energy_joules, both.device_peak_bytes) == (2, 15, 17, 40)
    assert (both.device_busy_seconds, both.device_energy_eq4_joules) == (10, 1000)
    assert (both.p0_watts, both.p0_source) == (100, "given")


def test_what_one_session_misses_is_missing_in_the_sum() -> None:
    measured = measure(Board(50, joules=[0.0, 8.0]), [10.0])
    missed = measure(Board(RuntimeError("gone"), joules=[0.0, 9.0], limit=200.0), [10.0])
    for both in (measured + missed, missed + measured):
        assert why(both.device_busy_seconds) == "RuntimeError: gone"
        assert both.device_energy_joules == 17
        assert both.to_json()["device_energy_eq4_joules"] == {"not_measured": "RuntimeError: gone"}
    assert why((measured + missed).p0_watts) == "300 in one session, 200 in another"


def test_a_store_keeps_the_last_readings_of_every_session(tmp_path, monkeypatch) -> None:
    files, clock, kept = LocalFiles(tmp_path), Clock(), Clock()
    monkeypatch.setattr("time.monotonic", kept)
    assert read_sessions(files) is None
    assert sessions_json(files) == {"not_measured": "no session that filled the store kept its readings"}
    for end in (3.0, 40.0):
        with (
            Meter("extract", Board(), period_seconds=NEVER, clock=clock) as meter,
            SessionFile(files, meter) as session,
        ):
            session.keep_if_due()
            clock.now += 1
            session.keep_if_due()
            before = read_sessions(files)
            kept.now += KEEP_EVERY + 1
            session.keep_if_due()
            after = read_sessions(files)
            assert before is not None
            assert after is not None
            assert after.wall_seconds == before.wall_seconds + 1, "not before it is due"
            clock.now += end - 1
    found = read_sessions(files)
    assert found is not None
    assert (found.sessions, found.wall_seconds) == (2, 43)
    next((tmp_path / "meters").glob("*.json")).write_text("[]")
    with pytest.raises(StoreError, match="holds no readings"):
        read_sessions(files)
    assert "holds no readings" in sessions_json(files)["not_measured"]


def test_readings_that_cannot_be_kept_do_not_end_the_run(tmp_path) -> None:
    (tmp_path / "meters").write_text("no folder")
    with Meter("extract", Board()) as meter, SessionFile(LocalFiles(tmp_path), meter):
        pass
    assert (tmp_path / "meters").read_text() == "no folder"


def test_an_extraction_keeps_its_readings_beside_the_same_bytes(
    words_store, models, rows_folder, tmp_path, monkeypatch, capsys
) -> None:
    """Of an interrupted session too; inspect and results show them."""
    store, whole, written = tmp_path / "store", StoreWriter.write_part, []

    def write_part(self: StoreWriter, buffer: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(whole(self, buffer))

    command: list[object] = ["extract", "--model", models["tied"], "--task", rows_folder / "words.toml", "--p0", 250]
    command += ["--dataset", rows_folder / "words", "--store", store, "--part-tokens", 200, "--batch-tokens", 120]
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_part", write_part)
        assert run(command, monkeypatch, capsys)[0] == 130
    interrupted = sessions_of(store)
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert err.splitlines()[-1].startswith("extract: ")
    both = sessions_of(store)
    assert (interrupted.sessions, both.sessions) == (1, 2)
    assert both.wall_seconds > interrupted.wall_seconds
    assert both.sampling_cpu_seconds < 0.01 * both.wall_seconds
    assert (both.p0_watts, both.p0_source) == (250, "given")
    assert contents(store) == contents(words_store)

    code, out, _ = run(["inspect", store], monkeypatch, capsys)
    assert code == 0
    assert "filled in 2 sessions" in out
    assert "not measured: the stage ran on cpu" in out
    assert json.loads(run(["inspect", store, "--json"], monkeypatch, capsys)[1])["meters"] == both.to_json()
    train = ["train", "--store", store, "--out", tmp_path / "run", "--hidden", 4, "--epochs", 1, "--json"]
    result = json.loads(run(train, monkeypatch, capsys)[1])[0]
    assert result["meters_of_extraction"] == both.to_json()
    assert dict(measured([result]))["time (meters of extraction)"] == f"{both.wall_seconds:,.1f} s"
    assert result["examples"] == {"train": 40, "validation": 12, "test": 9}


def sessions_of(store: Path) -> Readings:
    found = read_sessions(LocalFiles(store))
    assert found is not None
    return found


def test_a_stage_on_the_cpu_has_no_device_quantities_and_no_zeros() -> None:
    with meter_stage("extract", "cpu") as meter:
        pass
    found = meter.read().to_json()
    for name in ("device_peak_bytes", "device_energy_joules", "device_energy_eq4_joules", "device_busy_seconds"):
        assert found[name] == {"not_measured": "the stage ran on cpu"}
    assert 0 not in found.values()
    told = summary(meter.read())
    assert told.startswith("extract: 0.0 s; host memory ")
    assert "device energy by its counter, device energy by Eq. 4 (the stage ran on cpu)" in told


def test_the_summary_shows_both_energies_and_p0() -> None:
    told = summary(measure(Board([0, 50], joules=[0.0, 3.6e6]), [36.0], p0_watts=200))
    assert "device energy by its counter 3.6e+06 J = 1 kWh" in told
    assert "device energy by Eq. 4 with p0 = 200 W (given) 3600 J = 0.001 kWh" in told
