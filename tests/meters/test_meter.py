"""Meters against joules worked out by hand, on fake boards and sysfs folders, and on a real board."""

import mmap
import threading
import time
from pathlib import Path

import pynvml
import pytest
import torch

from read_cache.meters.meter import Board, Meter, meter_stage
from support.boards import NEVER, Clock, FakeBoard, measure, why, zone


def meter_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("meter-")]


def test_minutes_of_utilisation_are_eq_4_as_the_paper_writes_it() -> None:
    percent = [10, 40, 100, 0]
    readings = measure(FakeBoard([0, *percent]), [60.0] * 4, p0_watts=250)
    assert readings.device_energy_eq4_joules == pytest.approx(sum(percent) * 0.25 / 6000 * 3.6e6)  # kWh to J
    assert readings.device_energy_eq4_joules == pytest.approx(22_500)
    assert readings.device_busy_seconds == pytest.approx(90)
    assert (readings.p0_watts, readings.wall_seconds) == (250, 240)


def test_a_sample_holds_for_the_time_since_the_previous_one() -> None:
    readings = measure(FakeBoard([0, 100, 20]), [30.0, 90.0], p0_watts=100)
    assert readings.device_energy_eq4_joules == pytest.approx(100 * (30 + 18))


def test_p0_is_the_boards_power_limit_by_default() -> None:
    readings = measure(FakeBoard(50, limit=700.0), [2.0])
    assert readings.device_energy_eq4_joules == pytest.approx(700)
    assert readings.p0_watts == 700


def test_without_any_p0_the_busy_time_is_still_there() -> None:
    readings = measure(FakeBoard(50, limit=RuntimeError("unknown")), [2.0])
    assert readings.device_busy_seconds == pytest.approx(1)
    assert why(readings, "device_energy_eq4_joules") == why(readings, "p0_watts") == "RuntimeError: unknown"


def test_the_counter_counts_from_the_beginning_to_the_end() -> None:
    assert measure(FakeBoard(joules=[5000.0, 5250.0, 6000.0]), [1.0, 1.0]).device_energy_joules == pytest.approx(1000)


def test_a_counter_that_fell_is_no_energy() -> None:
    readings = measure(FakeBoard(joules=[5000.0, 5250.0, 100.0]), [1.0, 1.0])
    assert "5250" in why(readings, "device_energy_joules")


def test_a_counter_that_stands_still_is_no_zero(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 5)
    readings = measure(FakeBoard(joules=5000.0), [1.0], powercap=tmp_path)
    assert why(readings, "device_energy_joules") == why(readings, "cpu_energy_joules") == "counter did not move"


def test_a_board_that_fails_in_a_stage_loses_that_quantity_and_no_other() -> None:
    board = FakeBoard([0, 50, RuntimeError("the board fell off the bus"), 50], joules=[0.0, 10.0, 20.0, 30.0])
    readings = measure(board, [1.0] * 3)
    assert why(readings, "device_busy_seconds") == "RuntimeError: the board fell off the bus"
    assert why(readings, "device_energy_eq4_joules") == why(readings, "device_busy_seconds")
    assert (readings.device_energy_joules, readings.wall_seconds) == (30, 3)
    assert board.reads == 3, "a gauge that failed is not read again"


def test_a_boards_peak_begins_with_the_stage() -> None:
    board = FakeBoard()
    with Meter("train", board) as meter:
        board.peak = 4096
    assert meter.read().device_peak_bytes == 4096


def test_rapl_adds_packages_and_memory_over_a_wrap_and_counts_no_part_twice(tmp_path: Path) -> None:
    first = zone(tmp_path, "0", "package-0", 900_000_000)
    second = zone(tmp_path, "1", "package-1", 500_000_000)
    memory = zone(tmp_path, "0:1", "dram", 0)
    parts = zone(tmp_path, "0:0", "core", 0), zone(tmp_path, "2", "psys", 0)
    with Meter("train", FakeBoard(), period_seconds=NEVER, clock=Clock(), powercap=tmp_path) as meter:
        for energy in parts:
            energy.write_text("777000000\n")
        first.write_text("990000000\n")
        meter.sample()
        first.write_text("40000000\n")  # 10 J to the end of its range, and 40 J
        second.write_text("525000000\n")
        memory.write_text("3000000\n")
    assert meter.read().cpu_energy_joules == pytest.approx(90 + 50 + 25)
    assert meter.read().dram_energy_joules == pytest.approx(3)


def test_a_system_without_rapl_has_no_meter(tmp_path: Path) -> None:
    readings = measure(FakeBoard(), [1.0], powercap=tmp_path / "powercap")
    assert why(readings, "cpu_energy_joules") == why(readings, "dram_energy_joules") == "no meter"


def test_one_package_that_cannot_be_read_leaves_no_half_sum(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 0)
    locked = zone(tmp_path, "1", "package-1", 0)
    locked.unlink()
    locked.mkdir()
    readings = measure(FakeBoard(), [1.0], powercap=tmp_path)
    assert str(locked) in why(readings, "cpu_energy_joules")
    assert why(readings, "dram_energy_joules") == "no meter"


def test_host_memory_is_the_stages_own_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system cannot reset a process's peak of memory")

    def peak(megabytes: int) -> float:
        # Mapped memory, since the allocator may hold freed memory of other tests.
        with Meter("train", None) as meter, mmap.mmap(-1, megabytes << 20) as fresh:
            for _ in range(megabytes):
                fresh.write(bytes(1 << 20))
        peak_bytes = meter.read().host_peak_bytes
        assert peak_bytes is not None
        return peak_bytes

    large, small = peak(200), peak(20)
    assert 150 << 20 < large - small < 200 << 20


def test_a_peak_that_cannot_be_reset_is_missing(tmp_path: Path) -> None:
    (tmp_path / "clear_refs").mkdir()
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t    2000 kB\n")
    assert str(tmp_path) in why(measure(FakeBoard(), [1.0], proc=tmp_path), "host_peak_bytes")
    (tmp_path / "clear_refs").rmdir()
    assert measure(FakeBoard(), [1.0], proc=tmp_path).host_peak_bytes == 2000 * 1024
    assert str(tmp_path / "none") in why(measure(FakeBoard(), [1.0], proc=tmp_path / "none"), "host_peak_bytes")


class Properties:
    """What torch knows of a board."""

    uuid = "1"


def test_a_board_that_nvml_does_not_find_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    readings = measure(Board("cuda"), [1.0])
    for quantity in ("device_energy_joules", "device_busy_seconds", "device_energy_eq4_joules", "p0_watts"):
        assert why(readings, quantity).startswith("NVML")
    assert readings.device_peak_bytes == 7


def test_nvml_counts_in_thousandths(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rates:
        gpu = 40

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", {"GPU-1": 1500}.__getitem__)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", {"GPU-1": 250_000}.__getitem__)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", {"GPU-1": Rates}.__getitem__)
    board = Board("cuda")
    assert (board.energy_joules(), board.power_limit_watts(), board.utilisation_percent()) == (1.5, 250, 40)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_thread_ends_with_a_stage_that_fails(error: type[BaseException]) -> None:
    with pytest.raises(error), Meter("train", FakeBoard()) as meter:  # noqa: PT012
        assert meter_threads() == ["meter-train"]
        raise error
    assert meter_threads() == []
    assert meter.read().wall_seconds > 0


def test_the_thread_samples_by_itself_and_costs_little(tmp_path: Path) -> None:
    for number in range(4):
        zone(tmp_path, str(number), f"package-{number}", 0)
    board, deadline = FakeBoard(), time.monotonic() + 20
    with Meter("train", board, period_seconds=0.01, powercap=tmp_path) as meter:
        while board.reads < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert board.reads >= 20
        began = time.thread_time()
        for _ in range(100):
            meter.sample()
        assert (time.thread_time() - began) / 100 < 0.01, "under 1% of a core at one sample a second"


def test_after_the_end_readings_stay_as_they_are() -> None:
    board = FakeBoard(joules=[0.0, 10.0, 20.0, 99.0])
    with Meter("train", board, period_seconds=NEVER) as meter:
        assert meter.read().device_energy_joules == 10
    assert meter.read() == meter.read()
    assert meter.read().device_energy_joules == 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_board_is_measured() -> None:
    with meter_stage("train", "cuda") as meter:
        square, until = torch.randn(4096, 4096, device="cuda"), time.monotonic() + 3
        while time.monotonic() < until:
            square = torch.nn.functional.normalize(square @ square)
            torch.cuda.synchronize()
    readings = meter.read()
    assert readings.device_peak_bytes is not None
    assert readings.device_peak_bytes >= 2 * square.nbytes
    assert readings.device_busy_seconds is not None
    assert 0 < readings.device_busy_seconds <= readings.wall_seconds
    assert readings.p0_watts is not None
    assert readings.device_energy_eq4_joules == pytest.approx(readings.p0_watts * readings.device_busy_seconds)
    if readings.device_energy_joules is not None:  # boards before Volta have no counter
        assert 0 < readings.device_energy_joules < 2 * readings.p0_watts * readings.wall_seconds
