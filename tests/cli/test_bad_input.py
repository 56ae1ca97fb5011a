"""Bad input ends in one clear message and its exit code: no traceback, nothing half-written, nothing changed."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from read_cache.config import RunConfig
from support import bad_extract, bad_train
from support.processes import contents, run
from support.spoil import World
from support.stores import make_store
from support.training import network, train_store

WHOLE = {"manifest.json", "results.jsonl", "config.json"}
"""Files whose existence says that what they belong to is complete."""
ROOMS = {
    "model": bad_extract.MODELS, "bert": bad_extract.BERT, "task": bad_extract.TASKS, "rows": bad_extract.ROWS,
    "extract": bad_extract.SETTINGS, "train": bad_train.SETTINGS, "store": bad_train.STORES,
    "network": bad_train.NETWORKS,
}  # fmt: skip
CASES = {f"{room}: {name}": case for room, cases in ROOMS.items() for name, *case in cases}


@pytest.fixture(scope="module")
def well(
    tmp_path_factory: pytest.TempPathFactory,
    models: dict[str, Path],
    bert: Path,
    rows_folder: Path,
    words_store: Path,
    bert_store: Path,
) -> World:
    """Everything that is well."""
    folder = tmp_path_factory.mktemp("well")
    task, rows = folder / "words.toml", rows_folder / "words"
    task.write_text((rows_folder / "words.toml").read_text().replace('"no", ', '"nay", '))
    make_store(folder / "labels", models["tied"], str(task), rows, max_examples=4)
    make_store(folder / "other", models["untied"], str(rows_folder / "words.toml"), rows, max_examples=4)
    result = train_store(words_store, folder / "runs", [network(hidden=4)], RunConfig(epochs=1))[0]
    return World(
        folder, models, rows_folder, words_store, folder / "other", folder / "labels", Path(result.folder), bert,
        bert_store,
    )  # fmt: skip


@pytest.fixture
def world(well: World, tmp_path: Path) -> World:
    """Everything that is well, and a folder for what is not."""
    return dataclasses.replace(well, folder=tmp_path)


@pytest.mark.parametrize(("says", "arguments"), CASES.values(), ids=CASES)
def test_exits_with_one_message(
    says: str,
    arguments: Callable[[World], list[object]],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2 and the stated words on stderr; what was there is as it was, and nothing new looks whole."""
    words = arguments(world)
    before = contents(world.folder)
    code, out, err = run(words, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert says in err
    assert sum(line.startswith(("error: ", "Usage: ")) for line in err.splitlines()) == 1
    after = contents(world.folder)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in set(after) - set(before) if name.rpartition("/")[2] in WHOLE]


def test_all_networks_diverged(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """DEFECTS 3: exit code 2, the array that is the cause, no network folder; again, the same message at once."""
    store = world.edited("head/weight", (0, 0), float("nan"))
    messages = []
    for _ in range(2):
        code, out, err = run(world.train(store), monkeypatch, capsys)
        assert (code, out) == (2, "")
        messages.append([line for line in err.splitlines() if line.startswith("error: ")])
    assert messages[0] == messages[1]
    assert "head/weight" in messages[0][0]
    results = [json.loads(line) for line in (world.out / "results.jsonl").read_text().splitlines()]
    assert [(result["validation"], result["stop"]) for result in results] == [(None, "diverged")]
    assert not list(world.out.rglob("config.json"))
