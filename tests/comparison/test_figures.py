"""The page of figures: numbers worked out by hand, and what is refused."""

import json

import pytest

from read_cache.comparison import figures
from read_cache.errors import UserError
from read_cache.report.tables import paper

KINDS = {"full": (80.0, 10.0, 1000), "read": (70.0, 4.0, 250)}
ENERGY = "total_device_energy_eq4_joules"


def comparison(folder, task, kinds=KINDS, energy=None):
    """Write a comparison's record of each kind: (metric, seconds, bytes)."""
    records = [{"method": "majority class", "test": 50.0}]
    for kind, (test, seconds, size) in kinds.items():
        records.append({
            "method": kind, "test": test, "total_time": seconds, "counted_memory": size, "num_trainable_params": 1,
            "accelerator_memory_max": None, ENERGY: energy and seconds * energy,
        })  # fmt: skip
    (folder / task).mkdir()
    (folder / task / "compare.json").write_text(json.dumps({"task": task, "model": "m", "methods": records}))
    return folder / task


def test_costs_are_relative_to_full_and_metrics_are_plain_means(tmp_path) -> None:
    better = {kind: (test + 10, 2 * seconds, size) for kind, (test, seconds, size) in KINDS.items()}
    tasks = [comparison(tmp_path, "cola", energy=3.0), comparison(tmp_path, "sst2", better)]
    frame = figures.trained_frame(figures.read_comparisons(tasks)).set_index("method")
    assert list(frame.loc["read"])[:3] == [pytest.approx(40), 25, 75]
    assert list(frame)[:2] == ["training time, % of full", "counted memory, % of full"], "one task lacks its energy"
    assert frame.loc["read", "paper: energy, % of full"] == pytest.approx(100 * 2.06 / 12.52)


def test_the_page_and_its_files(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(figures, "SIZES", {"T5-small": figures.SIZES["T5-small"]})
    shown = {name: figures.SHOWN[name] for name in ("READ", "Full")}
    monkeypatch.setattr(figures, "SHOWN", shown)
    page = figures.write_figures([comparison(tmp_path, "cola", energy=3.0)], tmp_path / "out")
    names = {*(f"figure{number}.png" for number in (1, 2, 5, 6)), "figures-1-2.csv", "figures-5-6.csv", "figures.md"}
    assert {path.name for path in page.parent.iterdir()} == names
    assert "energy, % of full" in page.read_text()
    assert f"| T5-small | paper, GB | {paper()['table3']['T5-small']['READ']:.2f} |" in page.read_text()


def test_what_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="compare"):
        figures.read_comparisons([tmp_path])
    with pytest.raises(UserError, match="full"):
        figures.read_comparisons([comparison(tmp_path, "cola", {"read": KINDS["read"]})])
    whole = comparison(tmp_path, "sst2")
    with pytest.raises(UserError, match=r"mrpc.* full"):
        figures.read_comparisons([whole, comparison(tmp_path, "mrpc", {"read": KINDS["read"]})])
