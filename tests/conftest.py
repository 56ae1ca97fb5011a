"""What the tests share: tiny random backbones, small tasks, and a store made from them."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from support.backbones import bert_folder
from support.rows import write_rows
from support.shared import SHARED
from support.stores import make_store
from support.tiny_t5 import Models

if TYPE_CHECKING:
    from support.hub import Hub

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_glue() -> Path:
    """The folder of real GLUE rows; tests that need it skip where it is absent."""
    if not (SHARED / "glue").is_dir():
        pytest.skip(f"real GLUE rows are not at {SHARED / 'glue'}")
    return SHARED / "glue"


@pytest.fixture(scope="session")
def models() -> dict[str, Path]:
    """Folders of tiny random T5 backbones by kind; see `support/tiny_t5.py`."""
    return Models()


@pytest.fixture(scope="session")
def bert() -> Path:
    """The folder of a tiny random BERT."""
    return bert_folder("bert")


@pytest.fixture(scope="module")
def service() -> Iterator[None]:
    """An S3 service on loopback that AWS_ENDPOINT_URL names, with one bucket."""
    from support.s3 import serving  # a second of imports that few tests need

    with serving():
        yield


@pytest.fixture
def own_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Hub"]:
    """A hub on loopback that the client in this process asks, with a token for what belongs to `team`."""
    from huggingface_hub import constants

    from support.hub import TOKEN, Hub

    hub = Hub()
    hub.owners["team"] = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # on for buckets, which take nothing else
    with hub.serve() as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        yield hub


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of the tasks `words` and `scores`, and the files words.toml, pairs.toml and open.toml."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def words_store(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path], rows_folder: Path) -> Path:
    """A sealed bf16 store of the `words` task from the tied T5; not to be changed."""
    path = tmp_path_factory.mktemp("stores") / "words"
    make_store(path, models["tied"], str(rows_folder / "words.toml"), rows_folder / "words")
    return path


@pytest.fixture(scope="session")
def bert_store(tmp_path_factory: pytest.TempPathFactory, bert: Path, rows_folder: Path) -> Path:
    """A sealed bf16 store of the pairs of `scores` from the tiny BERT; not to be changed."""
    path = tmp_path_factory.mktemp("stores") / "pairs"
    make_store(path, bert, str(rows_folder / "pairs.toml"), rows_folder / "scores", max_source_length=40)
    return path


def pytest_collection_finish() -> None:
    """Let no garbage collection look again at what the imports have made: more than half a second each time."""
    gc.freeze()
