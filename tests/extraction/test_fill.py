"""Stores made end to end: what is the same store, what is refused, and going on."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from read_cache.backbones import open_backbone
from read_cache.config import ExtractConfig
from read_cache.engines import LocalEngine
from read_cache.errors import StoreError, UserError
from read_cache.extraction.fill import fill_store, open_store
from read_cache.extraction.part import length_batches
from read_cache.extraction.plan import make_plan
from read_cache.store.folder import StoreFolder
from read_cache.store.lock import Worker
from read_cache.store.reader import StoreReader
from read_cache.tasks import TASKS, find_task
from support.backbones import bert_folder
from support.stores import make_store


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def words(models, rows_folder):
    """Arguments of make_store for the `words` task on a T5."""
    return {"model": models["tied"], "task": str(rows_folder / "words.toml"), "dataset": rows_folder / "words"}


def test_a_store_is_made_the_same_twice(tmp_path, words) -> None:
    first, second = (make_store(tmp_path / name, **words) for name in "ab")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert first.manifest.identity == second.manifest.identity
    first.check_plan()
    assert first.manifest.splits["train"].parts > 2
    order = first.split("train").plan["example_id"]
    assert sorted(order.tolist()) == list(range(40))
    assert order.tolist() != sorted(order.tolist())


def test_the_spelling_of_a_path_and_the_batch_are_no_part_of_identity(
    tmp_path, words, words_store, monkeypatch
) -> None:
    first = StoreReader(shutil.copytree(words_store, tmp_path / "s"))
    before = files_of(tmp_path / "s")
    shutil.copytree(words["model"], tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    spelt = os.path.relpath(words["dataset"], tmp_path)
    again = make_store(tmp_path / "s", "elsewhere", words["task"], spelt, batch_tokens=64)
    assert files_of(tmp_path / "s") == before
    assert again.manifest.identity == first.manifest.identity
    other = make_store(tmp_path / "t", "elsewhere", words["task"], spelt, batch_tokens=64)
    assert other.manifest.identity == first.manifest.identity
    assert other.manifest.digest != first.manifest.digest
    assert other.manifest.provenance.dataset == spelt


def test_a_begun_store_goes_on_with_a_smaller_batch(tmp_path, words, words_store) -> None:
    whole = StoreReader(words_store)
    task, dataset = find_task(words["task"]), str(words["dataset"])
    backbone = open_backbone(str(words["model"]), "bf16")
    folder = StoreFolder(tmp_path / "s")
    plans = [
        make_plan(backbone, task, dataset, ExtractConfig(part_tokens=200, batch_tokens=tokens)) for tokens in (120, 40)
    ]

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(tokens: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        fill_store(open_store(folder, plans[0], backbone), plans[0], backbone, stop)
    assert folder.planned
    writer = open_store(folder, plans[1], backbone)
    total = sum(info.parts for info in whole.manifest.splits.values())
    assert 0 < len(writer.missing_parts()) < total
    seen = []
    fill_store(writer, plans[1], backbone, seen.append)
    store = StoreReader(tmp_path / "s")
    assert store.manifest.digest == whole.manifest.digest  # the plan that began the store
    assert 0 < sum(seen) < sum(info.tokens for info in whole.manifest.splits.values())
    for split in whole.manifest.splits:
        for part in range(whole.split(split).parts):
            for name, values in whole.split(split).read_part(part).items():
                assert values.shape == store.split(split).read_part(part)[name].shape


def test_workers_with_another_batch_give_the_bytes_of_the_plan(tmp_path, words, words_store, monkeypatch) -> None:
    """Two may compute the same part: other batches would put one's files under the other's checksums."""
    task, dataset = find_task(words["task"]), str(words["dataset"])
    backbone, folder = open_backbone(str(words["model"]), "bf16"), StoreFolder(tmp_path / "s")
    batches = (120, 40)
    plans = [make_plan(backbone, task, dataset, ExtractConfig(part_tokens=200, batch_tokens=size)) for size in batches]
    workers = [Worker(1, 2), Worker(2, 2)]
    open_store(folder, plans[0], backbone, workers[0])
    used = set()

    def recorded(length: np.ndarray, batch_tokens: int):
        used.add(batch_tokens)
        return length_batches(length, batch_tokens)

    monkeypatch.setattr("read_cache.extraction.part.length_batches", recorded)
    fill_store(open_store(folder, plans[1], backbone, workers[1]), plans[1], backbone, worker=workers[1])
    assert used == {120}
    assert files_of(tmp_path / "s") == files_of(words_store)


def test_another_metric_rewrites_the_task_alone(tmp_path, words, words_store) -> None:
    first = StoreReader(shutil.copytree(words_store, tmp_path / "s"))
    before, messages = files_of(tmp_path / "s"), []
    text = Path(words["task"]).read_text()
    (tmp_path / "renamed.toml").write_text(text + 'metric = "matthews"\n')
    again = make_store(
        tmp_path / "s", words["model"], str(tmp_path / "renamed.toml"), words["dataset"], messages.append
    )
    after = files_of(tmp_path / "s")
    assert [name for name in after if after[name] != before[name]] == ["manifest.json"]
    assert after.keys() == before.keys()
    assert (again.manifest.task.name, again.manifest.task.metric) == ("renamed", "matthews")
    assert again.manifest.activations_digest == first.manifest.activations_digest
    assert again.manifest.task_digest != first.manifest.task_digest
    assert again.manifest.provenance == first.manifest.provenance
    assert len(messages) == 1
    assert "matthews" in messages[0]
    again.split("train").read_part(0)


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"dtype": "fp32"}, "format.dtype is bf16, asked for fp32"),
        ({"seed": 1}, "seed is 0, asked for 1"),
        ({"part_tokens": 150}, "part_tokens is 200, asked for 150"),
        ({"max_examples": 5}, "tokens_digest differs"),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_other_settings_are_refused(tmp_path, words, words_store, settings, fact, sealed) -> None:
    shutil.copytree(words_store, tmp_path / "s")
    if not sealed:
        (tmp_path / "s" / "manifest.json").rename(tmp_path / "s" / "plan.json")
    before = files_of(tmp_path / "s")
    with pytest.raises(StoreError, match=fact):
        make_store(tmp_path / "s", **words, **settings)
    assert files_of(tmp_path / "s") == before


def test_other_labels_and_an_unfinished_store_of_another_task_are_refused(tmp_path, words, rows_folder) -> None:
    make_store(tmp_path / "s", bert_folder("bert"), words["task"], words["dataset"], max_source_length=60)
    swapped = shutil.copytree(rows_folder / "words", tmp_path / "swapped")
    (swapped / "train.jsonl").write_text((swapped / "train.jsonl").read_text().replace('"label": 1', '"label": 2'))
    with pytest.raises(StoreError, match="labels_digest differs"):
        make_store(tmp_path / "s", bert_folder("bert"), words["task"], swapped, max_source_length=60)
    (tmp_path / "s" / "manifest.json").rename(tmp_path / "s" / "plan.json")
    (tmp_path / "renamed.toml").write_text(Path(words["task"]).read_text())
    with pytest.raises(StoreError, match=r"unfinished store .*task\.name is words, asked for renamed"):
        make_store(
            tmp_path / "s", bert_folder("bert"), str(tmp_path / "renamed.toml"), words["dataset"], max_source_length=60
        )


def test_a_folder_that_is_no_store_is_refused(tmp_path, words) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="is no store"):
        make_store(tmp_path / "s", **words)


def test_states_that_are_not_finite_are_refused(tmp_path, words) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(words["model"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.block.1.layer.1.DenseReluDense.wo.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"encoder hidden states are not finite at layer 2.*compute_dtype"):
        make_store(tmp_path / "s", folder, words["task"], words["dataset"])
    assert not StoreFolder(tmp_path / "s").sealed


def test_a_tokenizer_of_another_model_is_refused(tmp_path, models, words) -> None:
    folder = shutil.copytree(models["byt5"], tmp_path / "model")
    for file in Path(words["model"]).glob("*token*"):
        shutil.copy(file, folder)
    with pytest.raises(UserError, match=r"has 384 tokens"):
        make_store(tmp_path / "s", folder, words["task"], words["dataset"])


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"rank": 32}, "rank is 32, expected less than the 32 channels"),
        ({"layers": "2,7"}, "layer 7.*1-3"),
        ({"dtype": "fp32", "compute_dtype": "bf16"}, "compute_dtype is bf16"),
        ({"layers": "x"}, "'x'"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"dtype": "fp64"}, "dtype is 'fp64'"),
        ({"depth": 3}, "unknown setting 'depth'"),
    ],
)
def test_settings_that_make_no_store_are_refused(tmp_path, words, settings, fact) -> None:
    with pytest.raises(UserError, match=fact):
        make_store(tmp_path / "s", **words, **settings)
    assert not (tmp_path / "s").exists()


def test_workers_share_a_store(tmp_path, words, words_store) -> None:
    task, dataset = find_task(words["task"]), str(words["dataset"])
    backbone = open_backbone(str(words["model"]), "bf16")
    plan = make_plan(backbone, task, dataset, ExtractConfig(part_tokens=200, batch_tokens=120))
    folder = StoreFolder(tmp_path / "s")
    writers = [open_store(folder, plan, backbone, Worker(number, 2)) for number in (1, 2)]
    fill_store(writers[0], plan, backbone, worker=Worker(1, 2))
    fill_store(writers[1], plan, backbone, worker=Worker(2, 2))
    assert files_of(tmp_path / "s") == files_of(words_store)
    assert StoreReader(words_store).manifest.identity == StoreReader(folder).manifest.identity


def test_batches_are_of_like_length_and_bounded() -> None:
    length = np.random.default_rng(0).integers(1, 40, size=50)
    batches = list(length_batches(length, 100))
    assert sorted(index for batch in batches for index in batch) == list(range(50))
    assert all(len(batch) * length[batch].max() <= 100 or len(batch) == 1 for batch in batches)
    longest = [length[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_the_bundled_tasks_and_real_rows_plan(shared_glue) -> None:
    backbone = open_backbone(str(bert_folder("bert")))
    plan = make_plan(
        backbone, TASKS["stsb"], str(shared_glue / "stsb"), ExtractConfig(max_examples=20, max_source_length=60)
    )
    arrays = plan.arrays["train"]
    assert len(arrays["score"]) == 20
    assert np.array_equal(arrays["label"], np.round(arrays["score"] * 5).astype(int))
    assert plan.manifest.task_record.head == "none"


def test_an_engine_with_processes_can_be_given_the_filler(tmp_path, words, words_store) -> None:
    class Pickling(LocalEngine):
        """Sends the worker through pickle, as another process would get it."""

        workers = 2

        def map(self, make_worker, items):
            return super().map(pickle.loads(pickle.dumps(make_worker)), items)

    backbone = open_backbone(str(words["model"]), "bf16")
    config = ExtractConfig(part_tokens=200, batch_tokens=120)
    plan = make_plan(backbone, find_task(words["task"]), str(words["dataset"]), config)
    folder = StoreFolder(tmp_path / "s")
    fill_store(open_store(folder, plan, backbone), plan, backbone, engine=Pickling())
    assert files_of(tmp_path / "s") == files_of(words_store)
