"""`read-cache plan`: the layout it plans is the one that is made, and what it cannot know it says it estimates."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_store
from processes import run
from read_cache.extract.config import ExtractConfig
from read_cache.extract.parts import length_batches
from read_cache.loader.batches import split_size
from read_cache.networks.config import ReadConfig
from read_cache.planning.batches import Batches, evaluation_batches, extraction_batches, training_batches
from read_cache.planning.estimate import Costs, Estimate, Training, hold
from read_cache.planning.machine import Kept, kept_folder
from read_cache.planning.memory import part_bytes
from read_cache.planning.models import describe_model, known_size, table_config
from read_cache.planning.recommend import recommend
from read_cache.planning.rows import SplitRows, plan_manifest, plan_rows
from read_cache.planning.timing import fit
from read_cache.store.layout import plan_parts
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.tasks import TASKS, find_task
from read_cache.train.grid import TrainConfig
from read_cache.train.run import open_batches

PARAMETERS = {
    "t5-small": 60_506_624,
    "google-t5/t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "google/t5-v1_1-base": 247_577_856,
    "google/flan-t5-large": 783_150_080,
}
"""As the published checkpoints have them."""
SMALL = ("--batch-tokens", 512, "--max-source-length", 32, "--hidden", 8, "--batch-size", 4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test uses or changes what was measured for people."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def planned(model: Path | str, task: str, dataset: Path | None, **settings: object) -> Manifest:
    """The layout that is planned."""
    config = ExtractConfig(**{"part_tokens": 200, "batch_tokens": 120, **settings})  # type: ignore[arg-type]
    described, found = describe_model(str(model)), find_task(task)
    place = str(dataset) if dataset else None
    return plan_manifest(found, place, described, plan_rows(found, place, described, config), config)


@pytest.mark.parametrize(
    ("model", "task", "settings"),
    [
        ("tied", "words", {}),
        ("untied", "words", {"dtype": "fp32", "attention": "heads", "max_examples": 11}),
        ("umt5", "scores", {"dtype": "int8", "attention_dtype": "uint8", "layers": "2"}),
        ("byt5", "open", {"rank": 8, "attention": "none", "max_source_length": 30}),
    ],
)
def test_the_planned_layout_is_the_store_s(
    model: str, task: str, settings: dict, models: dict[str, Path], rows_folder: Path, tmp_path: Path
) -> None:
    """Examples, tokens, nodes, parts, chunks, form and bytes, from a folder without weights."""
    folder = shutil.copytree(models[model], tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    name = str(rows_folder / f"{task}.toml")
    if task == "scores":
        name = str(tmp_path / "scores.toml")
        Path(name).write_text(
            'template = "{sentence1} {sentence2}"\nlabels = ["0.0", "1.5", "5.0"]\nscores = true\n'
            'metric = "pearson_spearman"\n'
        )
    rows = rows_folder / ("words" if task == "open" else task)
    expected = make_store(tmp_path / "store", models[model], name, rows, **settings).manifest
    found = planned(folder, name, rows, **settings)
    assert (found.splits, found.form, found.head) == (expected.splits, expected.form, expected.head)
    assert array_bytes(found) == array_bytes(expected)
    assert found.backbone.parameters == expected.backbone.parameters


@pytest.mark.parametrize("name", PARAMETERS)
def test_well_known_models_are_what_was_published(name: str) -> None:
    """No network, no cache: the table alone."""
    size = known_size(name)
    assert size is not None
    described = describe_model(name)
    assert described.info.parameters == PARAMETERS[name]
    assert described.source == "the table of well-known T5s"
    assert table_config(*size).is_gated_act == ("t5-v1_1" in name or "flan" in name)
    assert known_size("bert-base") is None


def test_batches_are_those_that_are_made(words_store: Path) -> None:
    """Rows, padded tokens and pairs of both stages."""
    store = StoreReader(words_store)
    split, run_config = store.split("train"), TrainConfig(batch_size=7)
    rows = SplitRows(split.layout)
    passes = extraction_batches(rows, 120).pass_features()
    made = [(len(b), split.layout.length[p][b].max()) for p in map(split.layout.examples, range(split.parts))
            for b in length_batches(split.layout.length[p], 120)]  # fmt: skip
    assert passes[:, 1].tolist() == [count for count, _ in made]
    assert passes[:, 3].tolist() == [count * longest**2 for count, longest in made]
    batches = open_batches(store, [ReadConfig()], run_config, "cpu", 4.0)
    for found, real in (
        (training_batches(rows, run_config), batches["train"].epoch(0, 0)),
        (evaluation_batches(SplitRows(store.split("test").layout), run_config), batches["test"].in_order()),
    ):
        sizes = [batch.encoder.values.shape[1:3] for batch in real]
        assert list(zip(found.rows.tolist(), found.tokens.tolist(), strict=True)) == [tuple(size) for size in sizes]


@pytest.mark.parametrize("tier", ["memory", "streamed"])
def test_a_store_is_held_where_training_holds_it(tier: str, words_store: Path) -> None:
    """All of it, or with a byte less than it takes only the smaller splits."""
    store, run_config = StoreReader(words_store), TrainConfig(window=1)
    whole = sum(part_bytes(store.manifest, name) * split.parts for name, split in store.manifest.splits.items())
    memory = (whole - (tier == "streamed")) / 1e9
    batches = open_batches(store, [ReadConfig()], run_config, "cpu", memory)
    held = hold(store.manifest, Training(ReadConfig(), run_config, memory=memory), "cpu")
    assert held.tier == tier
    assert batches["train"].tier == tier
    sizes = {name: split_size(found.split, found.collator) for name, found in batches.items()}
    assert part_bytes(store.manifest, "train") == sizes["train"].part_bytes
    taken = [s.whole_bytes if batches[name].kept else s.streamed_bytes(1) for name, s in sizes.items()]
    assert held.host_bytes == sum(taken)


def test_costs_are_found_again() -> None:
    """Of exact times, and never below zero."""
    split = SplitRows(plan_parts(np.arange(5, 45, dtype=np.int32), np.ones(40, np.int32), 300))
    features = Batches.of(split, [np.arange(10), np.arange(20), np.arange(30, 32), np.arange(25, 40), [3]])
    costs = np.array([1e-3, 2e-6, 3e-9, 0.0])
    assert fit(features.step_features(), (features.step_features() @ costs).tolist())[:3] == pytest.approx(costs[:3])
    assert min(fit(features.pass_features(), [1.0, 0.1, 3.0, 0.5, 2.0])) >= 0


def test_a_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again for another key, where asked for, and where the file is damaged; a folder that cannot be written is no
    obstacle."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured: list[int] = []

    def get(key: int, again: bool = False) -> object:
        return Kept("cpu", again).get("disk", {"disk": key}, lambda: {"n": measured.append(key) or len(measured)})

    assert [get(1), get(1), get(2), get(1, again=True), get(1)] == [{"n": n} for n in (1, 1, 2, 3, 3)]
    for path in kept_folder().iterdir():
        path.write_text("{")
    assert get(1) == {"n": 4}
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    assert [get(1), get(1)] == [{"n": 5}, {"n": 6}]


@pytest.fixture(scope="module")
def estimate_of() -> Estimate:
    """A plan of T5-base on CoLA with made-up times."""
    config, described = ExtractConfig(), describe_model("t5-base")
    rows = plan_rows(TASKS["cola"], None, described, config)
    manifest = plan_manifest(TASKS["cola"], None, described, rows, config)
    epoch = {"device": None, "memory": 4.0, "streamed": 5.0, "live": 24.0}
    return Estimate(manifest, rows, array_bytes(manifest), 10**12, 100.0, epoch, "memory", {})


def test_when_a_store_pays(estimate_of: Estimate) -> None:
    """The first epoch count at which extraction and epochs from the store take no longer."""
    assert estimate_of.pays_from_epoch == 5
    assert dataclasses.replace(estimate_of, extraction_seconds=101.0).pays_from_epoch == 6
    slow = {**estimate_of.epoch_seconds, "memory": 24.0}
    assert dataclasses.replace(estimate_of, epoch_seconds=slow).pays_from_epoch is None


def test_the_largest_form_that_fits_is_recommended(estimate_of: Estimate) -> None:
    total = estimate_of.total_bytes
    for free, dtype, rank in ((2 * total, "bf16", 0), (0.7 * total, "int8", 0), (0.25 * total, "int8", 256)):
        advice = recommend(dataclasses.replace(estimate_of, free_bytes=int(free)), ExtractConfig())
        assert (advice.options["dtype"], advice.options["rank"]) == (dtype, rank)
        assert advice.total_bytes is not None
        assert advice.total_bytes <= free
        assert "not settled" in advice.why
    nothing = recommend(dataclasses.replace(estimate_of, free_bytes=1000), ExtractConfig())
    assert nothing.options == {}
    assert "--max-examples" in nothing.why


def test_helping_threads_are_hidden_where_they_take_no_core_from_the_work(monkeypatch) -> None:
    costs = Costs({}, {}, None, accelerated=False)
    monkeypatch.setattr("os.cpu_count", lambda: torch.get_num_threads())
    assert costs.beside(3.0, 2.0) == 5.0
    assert costs.beside(3.0, 2.0, hindrance=2.0) == 7.0
    assert dataclasses.replace(costs, accelerated=True).beside(3.0, 2.0) == 3.0
    monkeypatch.setattr("os.cpu_count", lambda: torch.get_num_threads() + 1)
    assert costs.beside(3.0, 2.0) == 3.0


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables for people, then the same as JSON, from what was measured the first time."""
    words = ["plan", "--model", "t5-tiny-wiki", "--task", "sample-sentiment", "--networks", 2, "--epochs", 3, *SMALL]
    code, out, err = run(words, monkeypatch, capsys)
    assert code == 0, err
    assert "measuring this machine: backbone" in err
    assert "lengths are exact" in err
    for told in (
        "rows of sample-sentiment",
        "encoder/hidden",
        "extraction, once",
        "3 epochs without one",
        "peak memory",
    ):
        assert told in out
    code, out, err = run([*words, "--json"], monkeypatch, capsys)
    assert code == 0, err
    assert "measuring" not in err
    found = json.loads(out)
    assert found["rows"]["exact"] is True
    assert found["bytes"]["together"] == sum(n for name, n in found["bytes"].items() if name != "together")
    seconds = found["seconds"]
    assert seconds["epoch"]["device"] is None
    assert 0 < seconds["epoch"]["memory"] <= seconds["epoch"]["streamed"]
    assert found["tier"] == "memory"
    assert found["disk"]["holds"] is True
    together = seconds["extraction"] + 3 * seconds["epoch"]["memory"]
    assert found["run"]["seconds_with_store"] == pytest.approx(together)
    assert min(peak["host"] for peak in found["peak_bytes"].values()) > 1e8
    assert found["recommended"]["options"]["dtype"] == "bf16"
    assert {used["kind"] for used in found["calibration"]} == {"backbone", "network", "disk"}


@pytest.mark.parametrize(
    ("says", "options"),
    [
        ("--networks is 0", {"networks": 0}),
        ("--memory is nan", {"memory": "nan"}),
        ("--epochs is 0", {"epochs": 0}),
        ("cell 'elman' is none of", {"cell": "elman"}),
        ("--rank is 128, but states have 128 channels", {"rank": 128}),
        ("names layer 9", {"layers": "9"}),
        ("unknown task 'colla'", {"task": "colla"}),
        ("neither bundled, nor a local folder", {"model": "t5-none"}),
        ("device 'abacus' cannot be used", {"device": "abacus"}),
        ("holds no rows", {"dataset": Path(__file__).parent}),
        ("leave it out", {"revision": "main"}),
    ],
)
def test_bad_input(
    says: str, options: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one message, before anything is measured."""
    monkeypatch.setattr("read_cache.backbones.hub._answers", lambda *_: False)
    given = {"model": "t5-tiny-wiki", "task": "sample-sentiment", **options}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    code, out, err = run(["plan", *words], monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert says in err
    assert "measuring" not in err


@pytest.mark.slow
def test_the_bench_does_what_was_planned(tmp_path: Path) -> None:
    """Bytes are as planned; times of so few rows mean nothing, but they are there."""
    from read_cache.bench.case import BenchConfig, Case
    from read_cache.bench.plan import SETTINGS, compare

    found = compare(Case(BenchConfig(rows=36), tmp_path), SETTINGS[2])
    planned_bytes, on_disk = found["megabytes"]
    assert on_disk == pytest.approx(planned_bytes, rel=0.1)
    assert all(value > 0 for pair in found.values() for value in pair)
    assert not (tmp_path / "planned").exists()
