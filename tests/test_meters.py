"""Meters against joules worked out by hand, on boards and sysfs folders of the tests' own, and on a real board."""

import mmap
import threading
import time
from pathlib import Path

import pynvml
import pytest
import torch

from boards import NEVER, Board, Clock, measure, why, zone
from read_cache.errors import UserError
from read_cache.meters.meter import Meter
from read_cache.meters.nvml import NoDevice, NvmlDevice
from read_cache.meters.readings import Missing
from read_cache.meters.stage import meter_stage


def meter_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("meter-")]


def test_minutes_of_utilisation_are_eq_4_as_the_paper_writes_it() -> None:
    percent = [10, 40, 100, 0]
    found = measure(Board([0, *percent]), [60.0] * 4, p0_watts=250)
    assert found.device_energy_eq4_joules == pytest.approx(sum(percent) * 0.25 / 6000 * 3.6e6)  # kWh to J
    assert found.device_energy_eq4_joules == pytest.approx(22_500)
    assert found.device_busy_seconds == pytest.approx(90)
    assert (found.p0_watts, found.p0_source, found.wall_seconds) == (250, "given", 240)


def test_a_sample_stands_for_the_time_since_the_one_before() -> None:
    found = measure(Board([0, 100, 20]), [30.0, 90.0], p0_watts=100)
    assert found.device_energy_eq4_joules == pytest.approx(100 * (30 + 18))


def test_without_p0_it_is_the_boards_power_limit() -> None:
    found = measure(Board(50, limit=700.0), [2.0])
    assert found.device_energy_eq4_joules == pytest.approx(700)
    assert (found.p0_watts, found.p0_source) == (700, "the board's power limit")


def test_without_any_p0_the_busy_time_is_still_there() -> None:
    found = measure(Board(50, limit=RuntimeError("unknown")), [2.0])
    assert found.device_busy_seconds == pytest.approx(1)
    assert why(found.device_energy_eq4_joules) == "no p0 was given, and RuntimeError: unknown"


def test_the_counter_counts_from_the_beginning_to_the_end() -> None:
    assert measure(Board(joules=[5000.0, 5250.0, 6000.0]), [1.0, 1.0]).device_energy_joules == pytest.approx(1000)


def test_a_counter_that_went_back_is_no_energy() -> None:
    found = measure(Board(joules=[5000.0, 5250.0, 100.0]), [1.0, 1.0])
    assert why(found.device_energy_joules) == "its counter went back, from 5250 to 100"


def test_a_counter_that_stands_still_is_no_zero(tmp_path) -> None:
    zone(tmp_path, "0", "package-0", 5)
    found = measure(Board(joules=5000.0), [1.0], powercap=tmp_path)
    assert why(found.device_energy_joules) == why(found.cpu_energy_joules) == "its counter has not moved"


def test_a_device_that_fails_on_the_way_takes_its_quantity_along_and_nothing_else() -> None:
    board = Board([0, 50, RuntimeError("the board fell off the bus"), 50], joules=[0.0, 10.0, 20.0, 30.0])
    found = measure(board, [1.0] * 3)
    assert why(found.device_busy_seconds) == "RuntimeError: the board fell off the bus"
    assert found.device_energy_eq4_joules == found.device_busy_seconds
    assert (found.device_energy_joules, found.wall_seconds) == (30, 3)


def test_a_devices_peak_begins_with_the_stage() -> None:
    board = Board()
    with Meter("train", board) as meter:
        board.peak = 4096
    assert meter.read().device_peak_bytes == 4096


def test_rapl_adds_packages_and_memory_over_a_wrap_and_counts_no_part_twice(tmp_path) -> None:
    first = zone(tmp_path, "0", "package-0", 900_000_000)
    second = zone(tmp_path, "1", "package-1", 500_000_000)
    memory = zone(tmp_path, "0:1", "dram", 0)
    parts = zone(tmp_path, "0:0", "core", 0), zone(tmp_path, "2", "psys", 0)
    clock = Clock()
    with Meter("train", Board(), period_seconds=NEVER, clock=clock, powercap=tmp_path) as meter:
        for energy in parts:
            energy.write_text("777000000\n")
        first.write_text("990000000\n")
        meter.sample()
        first.write_text("40000000\n")  # 10 J to the end of its range, and 40 J
        second.write_text("525000000\n")
        memory.write_text("3000000\n")
    assert meter.read().cpu_energy_joules == pytest.approx(90 + 50 + 25)
    assert meter.read().dram_energy_joules == pytest.approx(3)


def test_a_system_without_rapl_says_so(tmp_path) -> None:
    found = measure(Board(), [1.0], powercap=tmp_path / "powercap")
    assert why(found.cpu_energy_joules) == why(found.dram_energy_joules) == f"this system has no {tmp_path}/powercap"


def test_a_counter_of_one_package_that_cannot_be_read_leaves_no_half_sum(tmp_path) -> None:
    zone(tmp_path, "0", "package-0", 0)
    locked = zone(tmp_path, "1", "package-1", 0)
    locked.unlink()
    locked.mkdir()
    found = measure(Board(), [1.0], powercap=tmp_path)
    assert why(found.cpu_energy_joules) == f"{locked} cannot be read: Is a directory"
    assert why(found.dram_energy_joules) == f"{tmp_path} has no dram zone"


def test_host_memory_is_the_stages_own_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system cannot reset a process's peak of memory")

    def peak(megabytes: int) -> float:
        # Memory of its own: what the allocator has kept from other tests is resident already.
        with Meter("train", NoDevice("none")) as meter, mmap.mmap(-1, megabytes << 20) as fresh:
            for _ in range(megabytes):
                fresh.write(bytes(1 << 20))
        found = meter.read().host_peak_bytes
        assert not isinstance(found, Missing)
        return found

    large, small = peak(200), peak(20)
    assert 150 << 20 < large - small < 200 << 20


def test_a_peak_that_cannot_be_reset_is_told_only_if_it_rose(tmp_path) -> None:
    (tmp_path / "clear_refs").mkdir()
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t    2000 kB\n")
    found = measure(Board(), [1.0], proc=tmp_path)
    assert why(found.host_peak_bytes).startswith("the process had its peak before the stage")
    with Meter("train", Board(), proc=tmp_path) as meter:
        assert isinstance(meter.read().host_peak_bytes, Missing)
        (tmp_path / "status").write_text("VmHWM:\t    3000 kB\n")
    assert meter.read().host_peak_bytes == 3000 * 1024
    assert "cannot be read" in why(measure(Board(), [1.0], proc=tmp_path / "none").host_peak_bytes)


def test_a_board_that_nvml_does_not_find_has_a_reason() -> None:
    device = NvmlDevice("GPU-00000000-0000-0000-0000-000000000000", lambda: None, lambda: 7)
    found = measure(device, [1.0])
    for quantity in (found.device_energy_joules, found.device_busy_seconds, found.device_energy_eq4_joules):
        assert "cannot be read (NVML: " in why(quantity)
    assert found.device_peak_bytes == 7


def test_nvml_counts_in_thousandths(monkeypatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", {"GPU-1": 1500}.__getitem__)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", {"GPU-1": 250_000}.__getitem__)
    device = NvmlDevice("GPU-1", lambda: None, lambda: 0)
    assert (device.energy_joules(), device.power_limit_watts()) == (1.5, 250)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_thread_ends_with_a_stage_that_fails(error) -> None:
    with pytest.raises(error), Meter("train", Board()) as meter:  # noqa: PT012
        assert meter_threads() == ["meter-train"]
        raise error
    assert meter_threads() == []
    assert meter.read().wall_seconds > 0


def test_the_thread_samples_by_itself_and_costs_little(tmp_path) -> None:
    for number in range(4):
        zone(tmp_path, str(number), f"package-{number}", 0)
    board, deadline = Board(), time.monotonic() + 20
    with Meter("train", board, period_seconds=0.01, powercap=tmp_path) as meter:
        while board.reads < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert board.reads >= 20
    assert 0 < meter.read().sampling_cpu_seconds / board.reads < 0.01, "under 1% at one sample a second"


def test_after_the_end_readings_stay_as_they_are() -> None:
    board = Board(joules=[0.0, 10.0, 20.0, 99.0])
    with Meter("train", board, period_seconds=NEVER) as meter:
        assert meter.read().device_energy_joules == 10
    assert meter.read() == meter.read()
    assert meter.read().device_energy_joules == 20


@pytest.mark.parametrize("p0_watts", [0.0, -250.0, float("nan"), float("inf")])
def test_a_p0_that_is_no_power_is_refused(p0_watts) -> None:
    with pytest.raises(UserError, match="expected more than 0"):
        Meter("train", Board(), p0_watts)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_board_is_measured() -> None:
    with meter_stage("train", "cuda") as meter:
        square, until = torch.randn(4096, 4096, device="cuda"), time.monotonic() + 3
        while time.monotonic() < until:
            square = torch.nn.functional.normalize(square @ square)
            torch.cuda.synchronize()
    found = meter.read()
    assert not isinstance(found.device_peak_bytes, Missing)
    assert found.device_peak_bytes >= 2 * square.nbytes
    assert not isinstance(found.device_busy_seconds, Missing)
    assert 0 < found.device_busy_seconds <= found.wall_seconds
    assert not isinstance(found.p0_watts, Missing)
    assert found.device_energy_eq4_joules == pytest.approx(found.p0_watts * found.device_busy_seconds)
    if not isinstance(found.device_energy_joules, Missing):  # boards before Volta have no counter
        assert 0 < found.device_energy_joules < 2 * found.p0_watts * found.wall_seconds
    assert found.sampling_cpu_seconds < 0.01 * found.wall_seconds
