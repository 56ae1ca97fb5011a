"""`read-cache plan`: bytes are those of the store; both stages run on a sample, and what they take is scaled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from read_cache.backbones import open_backbone
from read_cache.config import ExtractConfig, ExtractPlace, Place, RunConfig
from read_cache.errors import UserError
from read_cache.extraction.part import part_batches
from read_cache.extraction.plan import Plan, make_plan
from read_cache.planning import (
    Forecast,
    batch_tokens,
    extract_sample,
    forecast,
    padded_tokens,
    rest_of_first_pass,
    train_sample,
)
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.store.schema import plan_arrays, shared_arrays
from read_cache.tasks import find_task
from read_cache.training.from_store import FromStore, build, open_splits
from read_cache.training.recipe import Recipe
from support import backbones
from support.processes import run
from support.stores import make_store
from support.training import network

SMALL: dict[str, Any] = {"part_tokens": 200, "batch_tokens": 120}
"""Settings of the stores that the tests make."""
CASES = [
    ("tied", "words", {}),
    ("untied", "words", {"dtype": "fp32", "attention": "heads", "max_examples": 11}),
    ("umt5", "pairs", {"dtype": "int8", "attention_dtype": "uint8", "layers": "2"}),
    ("byt5", "open", {"rank": 8, "attention": "none", "max_source_length": 30}),
    ("bert", "pairs", {"max_source_length": 40}),
    ("bert", "pairs", {"positions": "pooled", "max_source_length": 40, "rank": 8}),
    ("untied", "words", {"positions": "pooled"}),
    ("llama", "open", {"attention": "none"}),
    ("gpt2", "words", {"positions": "readout", "dtype": "int8"}),
    ("bert", "words", {"dtype": "int8", "rank": 8, "attention": "heads", "max_source_length": 40}),
]
"""A backbone, a task and settings."""


@pytest.fixture(scope="module")
def folder_of(models: dict[str, Path]) -> Callable[[str], Path]:
    """Folders of tiny backbones by kind, of every family."""
    return lambda kind: models.get(kind) or backbones.folder_of(kind)


def rows_of(rows_folder: Path, task: str) -> tuple[str, Path]:
    """Return a task's file and the folder of its rows."""
    return str(rows_folder / f"{task}.toml"), rows_folder / ("scores" if task == "pairs" else "words")


def sample(
    model: Path | str, task: str, rows: Path | None, folder: Path, sample_rows: int = 0, **settings: Any
) -> tuple[Plan, int, dict[str, float]]:
    """Plan a store, and extract a sample of its rows."""
    dataset, config = str(rows) if rows else None, ExtractConfig(**SMALL | settings)
    folder.mkdir(exist_ok=True)
    return extract_sample(str(model), task, dataset, config, ExtractPlace(), sample_rows, folder)


def file_bytes(store: StoreReader) -> dict[str, int]:
    """Return the bytes of every activation array's files."""
    files = StoreFolder(store.folder.path).files.sizes(StoreFolder.ARRAYS).items()
    return {name: sum(size for path, size in files if f"/{name}/c/" in path) for name in array_bytes(store.manifest)}


@pytest.mark.parametrize(("kind", "task", "settings"), CASES)
def test_planned_bytes_are_those_of_the_store(
    kind: str, task: str, settings: dict, folder_of: Callable, rows_folder: Path, tmp_path: Path
) -> None:
    """Layout, bytes of every file, parameters."""
    toml, rows = rows_of(rows_folder, task)
    store = make_store(tmp_path / "store", folder_of(kind), toml, rows, **settings)
    planned, other_bytes, seconds = sample(folder_of(kind), toml, rows, tmp_path / "plan", **settings)
    expected = store.manifest
    assert array_bytes(planned.manifest) == file_bytes(store)
    assert planned.manifest.splits == expected.splits
    assert planned.manifest.format == expected.format
    assert planned.manifest.backbone.parameters == expected.backbone.parameters
    assert seconds == {}
    small = [
        store.split(name).plan[spec.name]
        for name in expected.splits
        for spec in plan_arrays(expected.backbone, expected.format)
    ]
    root = zarr.open_group(store.folder.path + "/arrays.zarr", mode="r")
    small += [np.asarray(root[spec.name]) for spec in shared_arrays(expected.backbone, expected.format)]
    assert other_bytes == sum(values.nbytes for values in small)


@pytest.mark.parametrize("kind", ["tied", "bert"])
def test_bytes_of_the_recommended_format_are_those_of_such_a_store(
    kind: str, folder_of: Callable, rows_folder: Path, tmp_path: Path
) -> None:
    toml, rows = rows_of(rows_folder, "words")
    planned, other_bytes, _ = sample(folder_of(kind), toml, rows, tmp_path / "plan", max_source_length=40)
    config = ExtractConfig(**SMALL, max_source_length=40).recommended(planned.manifest.backbone.stacks[0].width)
    found = Forecast(planned.manifest, other_bytes, config, 1, 1, {}, "").recommended_bytes
    settings = {"dtype": "int8", "rank": config.rank, "attention_dtype": "uint8", "max_source_length": 40}
    store = make_store(tmp_path / "store", folder_of(kind), toml, rows, **settings)
    assert store.manifest.format == config.format(store.manifest.backbone)
    assert found == sum(file_bytes(store).values())


@pytest.fixture(scope="module", params=["tied", "bert"])
def stages(
    request: pytest.FixtureRequest, folder_of: Callable, rows_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Plan, dict[str, float], dict[str, float], str]:
    """Both stages on a sample of 9 rows."""
    folder = tmp_path_factory.mktemp("stages")
    toml, rows = rows_of(rows_folder, "words")
    planned, _, extraction = sample(
        folder_of(request.param), toml, rows, folder / "plan", 9, dtype="int8", max_source_length=40
    )
    run_config = RunConfig(batch_size=4, epochs=10)
    training, tier = train_sample(
        folder / "plan", planned, [network("read", cell="rnn", hidden=8)], run_config, Place()
    )
    return folder / "plan" / "store", planned, extraction, training, tier


def test_stages_run_on_a_sample_of_the_rows(stages: tuple) -> None:
    """At least a batch of extraction, whatever `sample_rows` is; the seconds add up."""
    store, planned, extraction, training, tier = stages
    sampled = StoreReader(store)
    assert 9 <= sampled.manifest.splits["train"].examples < planned.manifest.splits["train"].examples
    assert sampled.manifest.splits["train"].tokens > 0.6 * SMALL["batch_tokens"]
    assert sampled.manifest.format == planned.manifest.format
    assert tier == "memory"
    assert min(extraction.values()) > 0
    assert min(training.values()) > 0
    assert extraction["extraction"] == pytest.approx(extraction["load and tokenise"] + extraction["fill"])
    epochs = 10 * (training["training epoch"] + training["validation"])
    assert training["training"] == pytest.approx(training["start of training"] + epochs + training["last evaluation"])


def test_padded_tokens_are_those_of_the_batches_that_are_made(words_store: Path, models: dict, rows_folder: Path):
    """What seconds are scaled by, of both stages."""
    toml, rows = rows_of(rows_folder, "words")
    backbone, store = open_backbone(str(models["tied"]), "bf16"), StoreReader(words_store)
    plan = make_plan(backbone, find_task(toml), str(rows), ExtractConfig(**SMALL))
    parts = [(name, part) for name, split in plan.splits.items() for part in range(split.layout.parts)]
    batches = [batch for name, part in parts for _, batch in part_batches(plan, name, part, backbone)]
    assert padded_tokens(plan) == sum(batch.stacks["encoder"].ids.numel() for batch in batches)
    run_config = RunConfig(batch_size=7)
    read = network("read", attention="mean")
    splits = open_splits(store, [build(read, store.manifest, torch.empty(0), "meta")[0]], 7, run_config.window, Place())
    made = [sum(batch.stacks["encoder"].real.numel() for batch in batches) for batches in
            (splits["train"].epoch(0, 3), splits["test"].in_order())]  # fmt: skip
    assert batch_tokens(store.split("train").layout, run_config, 3) == made[0]
    assert batch_tokens(store.split("test").layout, run_config) == made[1]


def test_a_first_pass_grows_with_the_bytes_and_rows_of_the_whole_store(words_store: Path) -> None:
    """A sample that is the whole store leaves nothing; the same rows in more bytes, or more rows, take longer."""
    store = StoreReader(words_store)
    run_config, read = RunConfig(batch_size=7), [network("read", cell="rnn", hidden=4)]
    prepared = FromStore(store.folder).prepare(read, run_config, Place())
    train, split = prepared.splits["train"], store.split("train")
    parts = [split.read_part(part, train.arrays, train.collator.format) for part in range(split.parts)]
    size = sum(values.nbytes for part in parts for values in part.values())
    rows = split.examples
    assert rest_of_first_pass(store.folder, prepared.learners, train, size, rows) == 0
    assert rest_of_first_pass(store.folder, [], train, 2 * size, rows) > 0
    assert rest_of_first_pass(store.folder, prepared.learners, train, size, 2 * rows) > 0
    assert rest_of_first_pass(store.folder, [], train, size, 2 * rows) == 0


@pytest.mark.parametrize("memory_share", [0.99, 1.01])
def test_a_split_is_held_where_training_will_hold_it(
    memory_share: float, words_store: Path, models: dict, rows_folder: Path, tmp_path: Path
) -> None:
    """The whole store's memory decides, not the sample's."""
    toml, rows = rows_of(rows_folder, "words")
    planned, *_ = sample(models["tied"], toml, rows, tmp_path / "plan", 9)
    read, run_config = network("read", hidden=4), RunConfig(batch_size=4, window=1)
    wanted = [build(read, StoreReader(words_store).manifest, torch.empty(0), "meta")[0]]
    whole = open_splits(StoreReader(words_store), wanted, 4, 1, Place())
    size = sum(
        split.split.manifest.part_bytes(split.split.name, split.arrays, split.collator.format) * split.split.parts
        for split in whole.values()
    )
    place = Place(memory=memory_share * size / 1e9)
    _, tier = train_sample(tmp_path / "plan", planned, [read], run_config, place)
    assert tier == open_splits(StoreReader(words_store), wanted, 4, 1, place)["train"].tier
    assert tier == ("memory" if memory_share > 1 else "streamed")


def test_too_little_memory_is_an_error_before_training(models: dict, rows_folder: Path, tmp_path: Path) -> None:
    toml, rows = rows_of(rows_folder, "words")
    planned, *_ = sample(models["tied"], toml, rows, tmp_path / "plan", 9)
    with pytest.raises(UserError, match="do not fit"):
        train_sample(tmp_path / "plan", planned, [network("read")], RunConfig(), Place(memory=1e-6))


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model", "t5-tiny-wiki", "--task", "sample-sentiment", "--max-examples", 40]
    words += ["--train-set", "network=read,probe", "--train-set", "epochs=3", "--train-set", "hidden=8"]
    code, out, err = run([*words, "--set", "batch_tokens=256", "--sample-rows", 8], monkeypatch, capsys)
    assert code == 0, err
    for told in ("encoder/hidden", "together", "extraction", "training epoch", "2 networks, 3 epochs"):
        assert told in out
    assert "train 40" in err
    code, out, err = run([*words, "--sample-rows", 0], monkeypatch, capsys)
    assert code == 0, err
    assert "encoder/hidden" in out
    assert "training" not in out


@pytest.mark.parametrize(
    ("fact", "options"),
    [
        ("sample-rows", {"sample-rows": -1}),
        ("epochs", {"train-set": "epochs=0"}),
        ("elman", {"train-set": "cell=elman"}),
        ("networks", {"train-set": "networks=3"}),
        ("memory", {"train-set": "memory=0"}),
        ("128", {"rank": 128}),
        ("9", {"layers": "9"}),
        ("colla", {"task": "colla"}),
        ("t5-none", {"model": "t5-none"}),
        ("abacus", {"device": "abacus"}),
        ("nowhere.toml", {"recipe": "nowhere.toml"}),
        ("no rows", {"dataset": Path(__file__).parent}),
        ("main", {"set": "revision=main"}),
        ("bert", {"model": "BERT", "task": "OPEN"}),
    ],
)
def test_bad_input(
    fact: str, options: dict, bert: Path, rows_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Exit code 2 and one message, and nothing on stdout."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chosen = {"model": "t5-tiny-wiki", "task": "sample-sentiment"} | options
    names = {"BERT": bert, "OPEN": rows_folder / "open.toml"}
    words = [word for name, value in chosen.items() for word in (f"--{name}", names.get(str(value), value))]
    if chosen["task"] == "OPEN":
        words += ["--dataset", rows_folder / "words"]
    code, out, err = run(["plan", *words], monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert fact in err
    assert "Traceback" not in err


def test_a_task_that_is_unknown_is_found_before_anything_runs() -> None:
    with pytest.raises(UserError, match="colla"):
        forecast(
            "t5-tiny-wiki",
            "colla",
            extract=ExtractConfig(),
            place=ExtractPlace(),
            recipe=Recipe(),
            training_place=Place(),
        )
