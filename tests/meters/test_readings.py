"""Readings of one stage in several sessions, where an extraction keeps them, and their line for people."""

import json
from pathlib import Path

import pytest

from read_cache.errors import UserError
from read_cache.meters.meter import Meter, meter_stage
from read_cache.meters.readings import Readings, keep_readings, read_sessions, summary
from read_cache.settings import parse
from read_cache.store.files import LocalFiles
from support.boards import NEVER, Clock, FakeBoard, measure, why


def test_sessions_add_up_through_json() -> None:
    first = measure(FakeBoard([0, 50], joules=[0.0, 7.0]), [10.0], p0_watts=100)
    clock, board = Clock(), FakeBoard([0, 100], joules=[50.0, 60.0])
    with Meter("train", board, 100, period_seconds=NEVER, clock=clock) as meter:
        meter.go_on_from(parse(Readings, json.loads(json.dumps(first.values())), "readings"))
        clock.now += 5
        board.peak = 30
    both = meter.read()
    assert (both.sessions, both.wall_seconds, both.device_energy_joules, both.device_peak_bytes) == (2, 15, 17, 40)
    assert (both.device_busy_seconds, both.device_energy_eq4_joules, both.p0_watts) == (10, 1000, 100)


def test_a_quantity_that_one_session_lacks_is_missing_in_the_sum() -> None:
    measured = measure(FakeBoard(50, joules=[0.0, 8.0]), [10.0])
    failed = measure(FakeBoard(RuntimeError("gone"), joules=[0.0, 9.0], limit=200.0), [10.0])
    for both in (measured + failed, failed + measured):
        assert why(both, "device_busy_seconds") == why(both, "device_energy_eq4_joules") == "RuntimeError: gone"
        assert both.device_energy_joules == 17
        assert why(both, "p0_watts") == "sessions differ"
        assert parse(Readings, both.values(), "readings") == both


def test_sessions_with_another_p0_keep_the_sum_of_their_energies() -> None:
    both = measure(FakeBoard(50, limit=200.0), [10.0]) + measure(FakeBoard(100, limit=300.0), [10.0])
    assert both.device_energy_eq4_joules == pytest.approx(5 * 200 + 10 * 300)
    assert why(both, "p0_watts") == "sessions differ"


def test_readings_of_another_version_are_read() -> None:
    values = measure(FakeBoard(50), [10.0]).values()
    del values["dram_energy_joules"]
    readings = parse(Readings, values | {"rain": 3}, "readings")
    assert (readings.wall_seconds, readings.dram_energy_joules) == (10, None)
    for broken in ([], {}, {"stage": "train"}, {"stage": "train", "wall_seconds": "long"}):
        with pytest.raises(UserError):
            parse(Readings, broken, "readings")


def test_a_store_keeps_the_last_readings_of_every_session(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    assert read_sessions(files) is None
    for session, gaps in (("a", (3.0, 40.0)), ("b", (2.0,))):
        for gap in gaps:
            keep_readings(files, session, measure(FakeBoard(), [gap]))
    readings = read_sessions(files)
    assert readings is not None
    assert (readings.sessions, readings.wall_seconds) == (2, 42)
    for text in ("[]", "{", '{"stage": 1}'):
        (tmp_path / "meters" / "a.json").write_text(text)
        assert read_sessions(files) is None


def test_readings_that_cannot_be_written_do_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "meters").write_text("no folder")
    keep_readings(LocalFiles(tmp_path), "a", measure(FakeBoard(), [1.0]))
    assert (tmp_path / "meters").read_text() == "no folder"


def test_a_stage_on_the_cpu_has_no_device_quantities_and_no_zeros() -> None:
    with meter_stage("extract", "cpu", p0_watts=250) as meter:
        pass
    readings = meter.read()
    for name in ("device_peak_bytes", "device_energy_joules", "device_energy_eq4_joules", "device_busy_seconds"):
        assert why(readings, name) == "no meter"
    assert 0 not in readings.values().values()
    assert (readings.p0_watts, "p0_watts" in readings.missing) == (250, False)


def test_the_summary_names_what_is_missing_in_a_word(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmHWM:\t    1200000 kB\n")
    line = summary(measure(None, [12.3], powercap=tmp_path / "none", proc=tmp_path))
    assert line == "train: 12.3 s; peak memory: 1.23 GB; energy: no meter"
    line = summary(measure(None, [1.0], powercap=tmp_path / "none", proc=tmp_path / "none"))
    assert line == "train: 1.0 s; peak memory: unknown; energy: no meter"


def test_the_summary_shows_both_energies_and_p0() -> None:
    line = summary(measure(FakeBoard([0, 50], joules=[0.0, 3.6e6]), [36.0], p0_watts=200))
    assert "device 4e-08 GB; energy" in line
    assert "energy: device 3.6e+06 J, device by Eq. 4 with p0 = 200 W 3600 J" in line
