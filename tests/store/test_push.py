"""A sealed store is copied to another place: complete, continued, or refused."""

import hashlib
import shutil
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, constants

import read_cache
from read_cache import hub as hub_client
from read_cache.errors import StoreError, UserError
from read_cache.store.files import LocalFiles
from read_cache.store.folder import find_stores
from read_cache.store.push import steps
from read_cache.store.reader import StoreReader
from read_cache.store.remote import RemoteFiles
from read_cache.store.verify import verify_store
from read_cache.watch import Watch
from support.hub import Hub, Repository
from support.hub_writes import check_refusals
from support.processes import contents
from support.s3 import BUCKET, objects
from support.stores import make_store

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's upload of a file
DATASET = "hf://datasets/team/pairs"


@pytest.fixture(scope="module")
def store(tmp_path_factory, bert, rows_folder) -> StoreReader:
    """A store of few files: a BERT without attention weights."""
    path = tmp_path_factory.mktemp("push") / "pairs"
    task = str(rows_folder / "pairs.toml")
    return make_store(path, bert, task, rows_folder / "scores", max_source_length=40, attention="none", part_tokens=400)


def files_of(url: str) -> dict[str, bytes]:
    return objects(url) if "://" in url else contents(Path(url))


def head(repository: Repository) -> dict[str, bytes]:
    """The files of a repository's main branch, without those that the hub has of its own."""
    files = repository.commits[repository.branches["main"]]
    return {name: data for name, data in files.items() if name != ".gitattributes"}


@pytest.mark.parametrize("kind", ["folder", "file", "memory", "s3"])
def test_a_copy_has_the_same_files(store, tmp_path, kind, request) -> None:
    if kind == "s3":
        request.getfixturevalue("service")
    url = {"folder": f"{tmp_path}/copy", "file": f"file://{tmp_path}/copy"}.get(kind, f"{kind}://{BUCKET}/copy-{kind}")
    said, seen = [], []
    copy = store.push(url, watch=Watch(said.append, lambda name, done, total: seen.append((done, total))))
    path = url.removeprefix("file://")
    assert files_of(path) == contents(Path(store.folder.path))
    assert copy.folder.path == path
    assert copy.manifest.identity == store.manifest.identity
    assert seen == sorted(seen)
    assert seen[-1][1] - seen[-1][0] == len(store.manifest.text)  # the manifest is the last
    assert said[-1].startswith(f"{path} is complete")
    store.push(url, watch=Watch(said.append))
    assert said[-1] == f"{path} is complete already"


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_an_interrupted_copy_is_continued(store, tmp_path, monkeypatch, kind) -> None:
    url = f"{tmp_path}/copy" if kind == "folder" else "memory://bucket/cut"
    files = LocalFiles if kind == "folder" else RemoteFiles
    fixed, *parts = steps(store.manifest, files_of(store.folder.path))
    limit = len(fixed) + 2 * len(parts[0]) + 1 + (kind == "folder")  # two parts and a file; in a folder, the plan too
    whole, written = files.write, []

    def write(self, name, data, **rest):
        if len(written) == limit:
            raise OSError(28, "No space left on device")
        written.append(name)
        whole(self, name, data, **rest)

    monkeypatch.setattr(files, "write", write)
    with pytest.raises(StoreError, match=r"No space left.*kept"):
        store.push(url)
    with pytest.raises(StoreError, match="not complete"):
        read_cache.open_store(url)
    before, limit = list(written), 10_000
    written.clear()
    store.push(url)
    assert files_of(url) == contents(Path(store.folder.path))
    assert set(before) & set(written) == {before[-1]}
    assert before[-1] == parts[2][0]
    assert written[-1] == "manifest.json"


def test_another_store_is_not_overwritten(store, words_store, tmp_path) -> None:
    copy = Path(shutil.copytree(words_store, tmp_path / "copy"))
    with pytest.raises(StoreError, match="holds another store"):
        store.push(copy)
    (copy / "manifest.json").rename(copy / "plan.json")  # as if half of it were there
    with pytest.raises(StoreError, match="holds another store"):
        store.push(copy)
    (copy / "plan.json").unlink()
    with pytest.raises(StoreError, match=r"is no store: it has arrays\.zarr"):
        store.push(copy)
    assert contents(copy).items() < contents(words_store).items()


def test_a_folder_of_other_files_is_refused_and_they_stay(store, tmp_path) -> None:
    for name in ("poetry.lock", "half.unfinished"):
        (tmp_path / name).touch()
        with pytest.raises(StoreError, match=f"is no store: it has {name}"):
            store.push(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


@pytest.mark.parametrize("lost", ["encoder/hidden/c/0/1/0", "**/c/0/**/*"])
def test_a_store_that_lacks_files_is_not_completed(store, tmp_path, lost) -> None:
    broken = Path(shutil.copytree(store.folder.path, tmp_path / "broken"))
    for path in (broken / "arrays.zarr/train").glob(lost):
        if path.is_file():
            path.unlink()
    with pytest.raises(StoreError, match=r"c/0/.*verify"):
        read_cache.open_store(broken).push(tmp_path / "copy")
    assert not (tmp_path / "copy/manifest.json").exists()


def test_a_dataset_of_the_hub(store, own_hub: Hub, tmp_path, monkeypatch) -> None:
    """Made, filled by commits of many files, opened, trained from; a second push does nothing."""
    monkeypatch.setattr(hub_client, "COMMIT_FILES", 12)
    copy = store.push(DATASET, private=True)
    dataset = own_hub.repositories["datasets", "team/pairs"]
    files = head(dataset)
    card = DatasetCard(files.pop("README.md").decode())
    assert card.data.tags == ["read-cache"]
    assert f'open_store("{DATASET}")' in card.text
    assert {name: data for name, data in files.items() if "meters/" not in name} == contents(Path(store.folder.path))
    assert dataset.token  # private
    states = [("plan.json" in names, "manifest.json" in names) for names in dataset.commits.values()]
    assert states == [(False, False), *[(True, False)] * (len(states) - 2), (False, True)]
    assert 4 <= len(states) < len(files) / 4
    assert list(verify_store(copy)) == []
    assert [one.path for one in find_stores(DATASET)[0]] == [DATASET]
    first = read_cache.open_store(f"{DATASET}@{dataset.branches['main']}")
    assert first.manifest.identity == store.manifest.identity
    run = {"network": "probe", "epochs": 1, "batch_size": 8}
    ours, theirs = (
        read_cache.train(path, tmp_path / name, **run).results[0]
        for name, path in (("ours", store.folder.path), ("theirs", DATASET))
    )
    assert contents(Path(ours.folder)) == contents(Path(theirs.folder))
    commits = len(dataset.commits)
    store.push(DATASET)
    assert len(dataset.commits) == commits
    assert not own_hub.unknown
    assert not own_hub.leaked


def test_an_interrupted_push_to_the_hub_is_continued(store, own_hub: Hub, monkeypatch) -> None:
    monkeypatch.setattr(hub_client, "COMMIT_FILES", 12)
    url, steps = f"{DATASET}/stores/pairs", []

    def refuse(name: str, done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 5:
            own_hub.repositories["datasets", "team/pairs"].refusal = (403, "Forbidden")

    with pytest.raises(UserError, match="forbids it"):
        store.push(url, watch=Watch(progress=refuse))
    dataset = own_hub.repositories["datasets", "team/pairs"]
    with pytest.raises(StoreError, match="forbids it"):
        read_cache.open_store(url)
    dataset.refusal = None
    with pytest.raises(StoreError, match="not complete"):
        read_cache.open_store(url)
    committed = set(head(dataset))
    own_hub.requests.clear()
    store.push(url)
    sent = {line.rpartition("/")[2] for line in own_hub.requests if line.startswith("PUT")}
    chunks = {name for name in committed if "/c/" in name}
    assert not sent & {hashlib.sha256(head(dataset)[name]).hexdigest() for name in chunks}
    assert len(chunks) > 12
    assert {f"stores/pairs/{name}": data for name, data in contents(Path(store.folder.path)).items()} == head(dataset)


def test_a_bucket_of_the_hub(store, own_hub: Hub, tmp_path, monkeypatch) -> None:
    """By the client's Xet protocol, against a service that is a folder."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    own_hub.chunks = tmp_path / "chunks"
    own_hub.chunks.mkdir()
    copy = store.push("hf://buckets/team/stores/pairs")
    files = head(own_hub.repositories["buckets", "team/stores"])
    assert files == {f"pairs/{name}": data for name, data in contents(Path(store.folder.path)).items()}
    assert list(verify_store(copy)) == []
    changes = [line for line in own_hub.requests if line.endswith("/batch")]
    assert len(changes) < len(files) / 2
    assert not own_hub.unknown


def test_what_the_hub_refuses(store, own_hub: Hub, monkeypatch) -> None:
    """One message each, with what to do."""
    own_hub.add("datasets", "team/empty").commit({"README.md": b"Nothing yet."})
    own_hub.add("datasets", "team/private", "hf_other").commit({})
    opened = {
        "hf://datasets/team/none": "nothing of that name, or it is private",
        "hf://datasets/team/private": "nothing of that name, or it is private",
        "hf://datasets/team/empty": "no store at hf://datasets/team/empty",
        "hf://datasets/team/empty@v9": "no such revision",
        "hf://datasets/team": "cannot be opened.*namespace/name",
        "hf://buckets/team/none": "buckets/team/none",
    }
    for url, fact in opened.items():
        with pytest.raises(StoreError, match=fact):
            read_cache.open_store(url)
    for url, fact in {
        "hf://datasets/other/new": "forbids it",
        "hf://datasets/team/empty@v9": "no such revision",
    }.items():
        with pytest.raises(UserError, match=fact):
            store.push(url)
    with pytest.raises(UserError, match="extract into a folder"):
        read_cache.extract("t5-tiny-wiki", "sample-sentiment", "hf://datasets/team/new")
    check_refusals(lambda: store.push("hf://datasets/team/new"), monkeypatch)
    with pytest.raises(UserError, match="cannot be reached: check the network"):
        read_cache.open_store("hf://datasets/team/new")
    assert ("datasets", "team/new") not in own_hub.repositories


def test_a_remote_store_is_copied_too(store, tmp_path) -> None:
    copy = store.push("memory://bucket/between").push(tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(Path(store.folder.path))
    assert list(verify_store(copy)) == []
