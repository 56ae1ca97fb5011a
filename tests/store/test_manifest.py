"""The manifest: two identities that hash the file's text, and what may change without changing them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from read_cache.errors import StoreError
from read_cache.store.folder import StoreFolder, find_stores
from read_cache.store.manifest import Manifest, differences
from read_cache.store.reader import StoreReader
from read_cache.store.verify import verify_store
from support.rows import write_rows
from support.stores import make_store


def edited(store: Path, into: Path, edit: Any) -> Path:
    """A copy of a store whose manifest was changed as JSON."""
    shutil.copytree(store, into)
    values = json.loads((into / "manifest.json").read_text())
    edit(values)
    (into / "manifest.json").write_text(json.dumps(values, indent=2))
    return into


def test_it_holds_no_clock_and_no_machine(words_store) -> None:
    def keys(values: Any) -> set[str]:
        return (
            {key for name, value in values.items() for key in {name} | keys(value)}
            if isinstance(values, dict)
            else set()
        )

    found = keys(json.loads((words_store / "manifest.json").read_text()))
    assert not {key for key in found if any(word in key for word in ("time", "date", "host", "user"))}
    assert not (words_store / "plan.json").exists()


def test_it_comes_back_from_its_text(words_store, bert_store) -> None:
    for store in (words_store, bert_store):
        manifest = StoreFolder(store).read_manifest()
        again = Manifest.make(manifest.activations, manifest.task_record, manifest.provenance)
        assert again.text == manifest.text == (store / "manifest.json").read_bytes()
        assert again.identity == manifest.identity
        assert Manifest.parse(manifest.text, "here") == manifest
        assert list(manifest.format.layers) == [stack.name for stack in manifest.backbone.stacks]
        assert manifest.format.first == "encoder"


def test_two_identities(words_store) -> None:
    """A metric, a name or a template is the task's; bytes and seeds are the activations'."""
    manifest = StoreFolder(words_store).read_manifest()
    activations, record, provenance = manifest.activations, manifest.task_record, manifest.provenance
    for task in (
        record.task.replaced(metric="matthews"),
        record.task.replaced(name="renamed"),
        record.task.replaced(labels=("not", *record.task.labels[1:])),
    ):
        other = Manifest.make(activations, record.replaced(task=task), provenance)
        assert other.activations_digest == manifest.activations_digest
        assert other.task_digest != manifest.task_digest
        assert other.identity != manifest.identity
    relabelled = Manifest.make(activations, record.replaced(labels_digest="0"), provenance)
    assert relabelled.activations_digest == manifest.activations_digest
    assert relabelled.task_digest != manifest.task_digest
    for changes in (
        {"seed": 7},
        {"tokens_digest": "0"},
        {"compute_dtype": "fp32"},
        {"format": manifest.format.replaced(rank=4)},
        {"backbone": manifest.backbone.replaced(digest="0")},
        {"made_with": {"torch": "0"}},
    ):
        other = Manifest.make(activations.replaced(**changes), record, provenance)
        assert other.activations_digest != manifest.activations_digest, changes
        assert other.task_digest == manifest.task_digest
        assert other.identity != manifest.identity
        [(name, _)] = [(name, value) for name, value in changes.items()]
        assert any(line.startswith(name) for line in differences(manifest, other)), name


@pytest.mark.parametrize(
    "changes",
    [{"dataset": "./glue/../glue/words"}, {"batch_tokens": 1}, {"model": "/elsewhere/tied"}, {"revision": "abc"}],
    ids=lambda changes: next(iter(changes)),
)
def test_where_things_came_from_is_no_identity(words_store, changes) -> None:
    manifest = StoreFolder(words_store).read_manifest()
    other = Manifest.make(manifest.activations, manifest.task_record, manifest.provenance.replaced(**changes))
    assert other.text != manifest.text
    assert other.digest != manifest.digest
    assert (other.identity, differences(manifest, other)) == (manifest.identity, [])


def test_one_store_by_another_path_and_with_other_batches_is_the_same_store(
    words_store, models, rows_folder, tmp_path, monkeypatch
) -> None:
    """DEFECTS 6 and 7: extracted again from a copy of the model and the rows, spelt otherwise; nothing is written."""
    store = tmp_path / "store"
    shutil.copytree(words_store, store)
    shutil.copytree(models["tied"], tmp_path / "a copy of the model")
    (tmp_path / "mounted").mkdir()
    write_rows(tmp_path / "mounted")
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    rows = "mounted/../mounted/words"
    again = make_store(store, "a copy of the model", "mounted/words.toml", rows, batch_tokens=64)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    fresh = make_store(tmp_path / "fresh", "a copy of the model", "mounted/words.toml", rows, batch_tokens=64)
    assert fresh.manifest.text != again.manifest.text
    assert fresh.manifest.identity == again.manifest.identity


def test_a_renamed_metric_keeps_the_activations_and_rewrites_the_manifest(
    words_store, models, rows_folder, tmp_path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(words_store, store)
    task = tmp_path / "words.toml"
    task.write_text((rows_folder / "words.toml").read_text() + 'metric = "matthews"\n')
    arrays = {path: path.stat().st_mtime_ns for path in (store / "arrays.zarr").rglob("*")}
    again = make_store(store, models["tied"], str(task), rows_folder / "words")
    assert {path: path.stat().st_mtime_ns for path in (store / "arrays.zarr").rglob("*")} == arrays
    assert again.manifest.task.metric == "matthews"
    assert list(verify_store(again)) == []
    old = StoreFolder(words_store).read_manifest()
    assert again.manifest.activations_digest == old.activations_digest
    assert again.manifest.task_digest != old.task_digest


def test_other_library_versions_matter_only_until_the_store_is_complete(
    words_store, models, rows_folder, tmp_path, monkeypatch
) -> None:
    """Half of a store from one version of torch and half from another is refused; a finished store is finished."""
    words = models["tied"], str(rows_folder / "words.toml"), rows_folder / "words"
    store = tmp_path / "store"
    shutil.copytree(words_store, store)
    before = (store / "manifest.json").read_bytes()
    monkeypatch.setattr("torch.__version__", "99.0.0")
    assert make_store(store, *words).manifest.text == before
    with pytest.raises(StoreError, match="seed is 0, asked for 1") as refused:
        make_store(store, *words, seed=1)
    assert "99.0" not in str(refused.value)
    (store / "manifest.json").rename(store / "plan.json")
    with pytest.raises(StoreError, match=r"made_with.torch is .*99\.0"):
        make_store(store, *words)


def test_other_settings_are_refused_by_name(words_store, models, rows_folder, tmp_path) -> None:
    store = tmp_path / "store"
    shutil.copytree(words_store, store)
    with pytest.raises(StoreError, match=r"seed is 0, asked for 1") as refused:
        make_store(store, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words", seed=1)
    assert str(store) in str(refused.value)


def test_fields_that_a_later_version_has_and_those_it_lacks(words_store, tmp_path) -> None:
    """More fields are ignored, missing ones take their default; the digests are those of the text."""

    def later(values: dict[str, Any]) -> None:
        values["activations"]["positions"] = "readout"
        values["activations"]["backbone"]["stacks"][0]["rotary"] = True
        values["task"]["task"]["hint"] = "none"
        values["provenance"]["host"] = "elsewhere"
        values["written_by"] = "9.0"
        del values["activations"]["backbone"]["stacks"][0]["post_norm"]
        del values["activations"]["backbone"]["stacks"][0]["segments"]
        del values["task"]["task"]["scores"]

    text = (edited(words_store, tmp_path / "later", later) / "manifest.json").read_bytes()
    manifest, found = StoreFolder(words_store).read_manifest(), Manifest.parse(text, "later")
    assert found.backbone == manifest.backbone
    assert found.activations == manifest.activations
    assert found.task == manifest.task
    assert found.text == text
    assert found.activations_digest != manifest.activations_digest
    # A store that the later version wrote has that digest on its arrays, and opens.
    root = tmp_path / "later" / "arrays.zarr" / "zarr.json"
    root.write_text(root.read_text().replace(manifest.activations_digest, found.activations_digest))
    store = StoreReader(tmp_path / "later")
    assert store.manifest.activations_digest == found.activations_digest
    assert list(verify_store(store)) == []


def test_spaces_and_the_order_of_keys_are_no_identity(words_store) -> None:
    manifest = StoreFolder(words_store).read_manifest()
    values = json.loads(manifest.text)
    values["task"] = dict(reversed(values["task"].items()))
    found = Manifest.parse(json.dumps(values).encode(), "here")
    assert found.digest != manifest.digest
    assert found.identity == manifest.identity


@pytest.mark.parametrize(("version", "remedy"), [(2, "extract the store again"), (99, "update read-cache")])
def test_another_schema_is_refused_in_one_sentence(words_store, tmp_path, version, remedy) -> None:
    store = edited(words_store, tmp_path / "old", lambda values: values.update(schema_version=version))
    with pytest.raises(StoreError, match=rf"version {version}, .* reads 3: {remedy}") as refused:
        StoreReader(store)
    assert str(refused.value).startswith(f"{store}/manifest.json ")
    assert "\n" not in str(refused.value)


def test_a_manifest_of_schema_2_as_it_was_written_is_refused(tmp_path) -> None:
    """Its other keys are of another shape; the version alone decides."""
    (tmp_path / "manifest.json").write_text('{"activations": "…", "form": {"dtype": "bf16"}, "schema_version": 2}')
    with pytest.raises(StoreError, match="schema version 2"):
        StoreReader(tmp_path)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"{}", b'{"schema_version": "x"}', b'{"schema_version": 1e999}', b"\xff\xfe",
     b'{"schema_version": 3}', b'{"schema_version": 3, "provenance": {}, "activations": [], "task": {}}'],
)  # fmt: skip
def test_what_is_no_manifest_is_damaged(text) -> None:
    with pytest.raises(StoreError, match=r"over there is damaged"):
        Manifest.parse(text, "over there")


@pytest.mark.parametrize("section", ["activations", "task"])
def test_a_manifest_that_was_changed_or_is_of_another_store_is_found(words_store, tmp_path, section) -> None:
    def change(values: dict[str, Any]) -> None:
        if section == "task":
            values["task"]["labels_digest"] = "0" * 64
        else:
            values["activations"]["seed"] = 1

    store = edited(words_store, tmp_path / "changed", change)
    if section == "activations":
        with pytest.raises(StoreError, match=r"does not belong to the arrays beside it"):
            StoreReader(store)
    else:
        with pytest.raises(StoreError, match="labels were changed"):
            StoreReader(store).check_plan()


@pytest.mark.parametrize("change", ["exchanged", "removed", "another", "one more"])
def test_label_tokens_that_are_not_those_of_the_rows_are_found(words_store, tmp_path, change) -> None:
    def edit(values: dict[str, Any]) -> None:
        ids = values["task"]["label_ids"]
        values["task"]["label_ids"] = {
            "exchanged": ids[::-1],
            "removed": [],
            "another": [[30, 1], *ids[1:]],
            "one more": [*ids, [31, 1]],
        }[change]

    with pytest.raises(StoreError, match="labels were changed"):
        StoreReader(edited(words_store, tmp_path / "changed", edit)).check_plan()


def test_an_absent_store_and_an_empty_path(tmp_path) -> None:
    with pytest.raises(StoreError, match=rf"no store at {tmp_path}/nothing"):
        StoreFolder(tmp_path / "nothing").read_manifest()
    with pytest.raises(StoreError, match="empty"):
        find_stores("")


def test_stores_below_a_folder_are_found(words_store, bert_store, tmp_path) -> None:
    shutil.copytree(words_store, tmp_path / "b" / "words")
    shutil.copytree(bert_store, tmp_path / "a")
    assert [store.path for store in find_stores(tmp_path)[0]] == [str(tmp_path / "a"), str(tmp_path / "b/words")]
    assert [store.path for store in find_stores(tmp_path / "a")[0]] == [str(tmp_path / "a")]


def test_a_task_section_is_rewritten_without_the_others(words_store) -> None:
    """A store of an earlier version, whose manifest has fewer fields, keeps the digest that its arrays have."""
    stored = StoreFolder(words_store).read_manifest()
    old = stored.text.replace(b'"post_norm": false', b'"post_norm":  false')
    manifest = Manifest.parse(old, "manifest.json")
    record = manifest.task_record.replaced(task=manifest.task.replaced(metric="matthews"))
    renamed = manifest.with_task(record)
    assert renamed.activations_digest == stored.activations_digest
    assert renamed.task_digest != stored.task_digest
    assert Manifest.parse(renamed.text, "manifest.json").task.metric == "matthews"
