"""Two extractions at once behind a URL, where nothing can be locked, and planners that die between two objects."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from read_cache.backbones import Backbone, open_backbone
from read_cache.config import ExtractConfig
from read_cache.errors import StoreError
from read_cache.extraction.fill import fill_store, open_store
from read_cache.extraction.plan import Plan, make_plan
from read_cache.store.folder import StoreFolder
from read_cache.store.lock import Worker
from read_cache.store.reader import StoreReader
from read_cache.store.remote import RemoteFiles
from read_cache.store.verify import verify_store
from read_cache.store.writer import PartBuffer, StoreWriter
from read_cache.tasks import find_task
from support.processes import contents
from support.s3 import BUCKET, objects


class DiedError(BaseException):
    """What a kill looks like from inside."""


@dataclasses.dataclass(frozen=True)
class Case:
    """An extraction of the `words` task that can be begun anywhere."""

    plan: Plan
    backbone: Backbone

    def open(self, url: object) -> StoreWriter | None:
        return open_store(StoreFolder(str(url)), self.plan, self.backbone)

    def fill(self, url: object) -> None:
        if writer := self.open(url):
            fill_store(writer, self.plan, self.backbone)


@pytest.fixture(scope="module")
def backbone(bert: Path) -> Backbone:
    """One stack, and so the fewest objects: each is a request to S3."""
    return open_backbone(str(bert), "bf16")


@pytest.fixture(scope="module")
def rows(rows_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of `words` without its test split."""
    folder = tmp_path_factory.mktemp("two-splits")
    for split in ("train", "validation"):
        shutil.copy(rows_folder / "words" / f"{split}.jsonl", folder)
    return Path(shutil.copy(rows_folder / "words.toml", folder)).parent


def make_case(backbone: Backbone, rows: Path, **settings: object) -> Case:
    config = ExtractConfig(**{"part_tokens": 200, "batch_tokens": 120, "max_source_length": 40} | settings)
    return Case(make_plan(backbone, find_task(str(rows / "words.toml")), str(rows), config), backbone)


@pytest.fixture(scope="module")
def case(backbone: Backbone, rows: Path) -> Case:
    return make_case(backbone, rows)


@pytest.fixture(scope="module")
def other(backbone: Backbone, rows: Path) -> Case:
    """The same rows in another order: most arrays have the same shapes and other values."""
    return make_case(backbone, rows, seed=1)


@pytest.fixture(scope="module")
def planned(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What planning leaves in a folder of this machine."""
    folder = tmp_path_factory.mktemp("planned") / "store"
    case.open(folder)
    return contents(folder)


@pytest.fixture(scope="module")
def sealed(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sealed") / "store"
    case.fill(folder)
    return contents(folder)


@pytest.fixture(params=["s3", "memory"])
def url(request: pytest.FixtureRequest, service: None, tmp_path: Path) -> str:
    return f"{request.param}://{BUCKET}/{tmp_path.name}/store"


def at_object(number: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the object of this number is written, once: `act`, which writes undisturbed."""
    whole, written = RemoteFiles.settle, []

    def settle(self: RemoteFiles, name: str, data: bytes) -> bool:
        written.append(name)
        if len(written) == number + 1:
            with pytest.MonkeyPatch.context() as undisturbed:
                undisturbed.setattr(RemoteFiles, "settle", whole)
                act()
        return whole(self, name, data)

    monkeypatch.setattr(RemoteFiles, "settle", settle)


def die() -> None:
    raise DiedError


def moments(url: str, planned: dict[str, bytes]) -> Iterator[int]:
    """Before the plan, in the middle, before the last object; over a network, only some of them."""
    yield from (0, len(planned) // 2)
    if url.startswith("memory"):
        yield from (1, len(planned) - 1)


def test_a_planner_that_dies_between_two_objects_is_gone_on_from(case, planned, sealed, url) -> None:
    steps = range(0, len(planned), 19) if url.startswith("memory") else moments(url, planned)
    for number in steps:
        place = f"{url}/{number}"
        with pytest.MonkeyPatch.context() as patch:
            at_object(number, die, patch)
            with pytest.raises(DiedError):
                case.open(place)
            assert len(objects(place)) == number
            assert not StoreFolder(place).planned
            with pytest.raises(StoreError, match="is not complete" if number else "no store at"):
                StoreReader(place)
        case.open(place)
        assert objects(place) == planned, number
    case.fill(place)
    assert objects(place) == sealed


def test_another_plan_is_refused_before_it_changes_anything(case, other, planned, url, monkeypatch) -> None:
    """At any moment after the first has begun; and where both looked before either had, the later of them."""
    for number in moments(url, planned):
        place, refused = f"{url}/{number}", []

        def plan_another(place: str = place, refused: list[str] = refused) -> None:
            before = objects(place)
            with pytest.raises(StoreError, match=r"an unfinished store of other settings or rows: .*seed is 0, asked"):
                other.open(place)
            refused.append(place)
            assert objects(place) == before

        with pytest.MonkeyPatch.context() as patch:
            if number:
                at_object(number, plan_another, patch)
                case.open(place)
                assert refused
                assert objects(place) == planned
            else:
                at_object(0, lambda place=place: case.open(place), patch)
                with pytest.raises(StoreError, match="with other settings or rows has just begun"):
                    other.open(place)
                assert objects(place) == planned


def test_the_same_plan_twice_at_once_leaves_what_one_leaves(case, planned, sealed, tmp_path) -> None:
    """Whether the other has planned it by then, or has sealed it."""
    url = f"memory://{tmp_path.name}"
    for number in moments(url, planned):
        for act, expected in ((case.open, planned), (case.fill, sealed)):
            place = f"{url}/{number}/{act.__name__}"
            with pytest.MonkeyPatch.context() as patch:
                at_object(number, lambda act=act, place=place: act(place), patch)
                if number == 0 and act == case.fill:
                    with pytest.raises(StoreError, match=r"has just completed .*: run the same command again"):
                        case.open(place)
                else:
                    case.open(place)
            assert objects(place) == expected


def test_of_two_that_fill_it_the_slower_is_told(case, sealed, tmp_path, monkeypatch) -> None:
    """And it may be started again as a worker; two workers may meet at a part."""
    url, faster, whole = f"memory://{tmp_path.name}", [], StoreWriter.write_part

    def write_part(self: StoreWriter, buffer: PartBuffer) -> None:
        if not faster:
            faster.append(StoreWriter(self.folder, self.manifest))
            whole(faster[0], buffer)
        whole(self, buffer)

    monkeypatch.setattr(StoreWriter, "write_part", write_part)
    with pytest.raises(StoreError, match=r"another extraction, which has just written part 0 of train.*1/2"):
        case.fill(url)
    assert not StoreFolder(url).sealed
    faster.clear()
    writer = open_store(StoreFolder(url), case.plan, case.backbone, Worker(2, 2))
    fill_store(writer, case.plan, case.backbone, worker=Worker(2, 2))
    assert faster
    assert objects(url) == sealed


def test_arrays_without_a_plan_are_left_alone(case, tmp_path) -> None:
    url = f"memory://{tmp_path.name}"
    case.open(url)
    StoreFolder(url).files.remove(StoreFolder.PLAN)
    before = objects(url)
    with pytest.raises(StoreError, match=r"neither plan.json nor manifest.json"):
        case.open(url)
    assert objects(url) == before


class LooksFirst(MemoryFileSystem):
    """A client that knows no exclusive writes."""

    protocol = "looksfirst"

    def pipe_file(self, path: str, value: bytes) -> None:
        super().pipe_file(path, value)


def test_a_client_without_exclusive_writes_looks_first(case, other, planned, tmp_path) -> None:
    fsspec.register_implementation("looksfirst", LooksFirst, clobber=True)
    url = f"looksfirst://{BUCKET}/{tmp_path.name}"
    case.open(url)
    assert objects(url) == planned
    with pytest.raises(StoreError, match="an unfinished store of other settings or rows"):
        other.open(url)
    case.fill(url)
    assert list(verify_store(StoreReader(url))) == []
