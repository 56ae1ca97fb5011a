"""One extraction as the command makes it, for tests of processes that fill a store together or die."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import read_cache
from read_cache.store.files import LocalFiles
from read_cache.store.writer import PartBuffer, StoreWriter
from read_cache.watch import Watch

WORDS = {"part_tokens": 200, "batch_tokens": 120}
"""Settings of the fixture `words_store`."""


def extract(
    store: Path | str, model: Path | str, task: Path | str, dataset: Path | str, **settings: object
) -> list[str]:
    """Extract by the Python API, with small parts; return what it said."""
    said: list[str] = []
    read_cache.extract(
        str(model),
        str(task),
        store,
        dataset=dataset,
        watch=Watch(say=said.append),
        **WORDS | settings,
    )
    return said


def extract_words(store: Path, words: Sequence[object], settings: Mapping[str, object]) -> None:
    """The work of a process: `words` are the model, the task and the dataset."""
    extract(store, *words, **settings)  # type: ignore[arg-type]


def hang_after_two_parts(store: Path, words: Sequence[object], settings: Mapping[str, object]) -> None:
    """An extraction that writes two parts and then no more, and holds on to the store."""
    whole, written = StoreWriter.write_part, []

    def write_part(self: StoreWriter, buffer: PartBuffer) -> None:
        while len(written) == 2:
            time.sleep(1)
        written.append(whole(self, buffer))

    StoreWriter.write_part = write_part  # type: ignore[method-assign]
    extract_words(store, words, settings)


def hang_while_planning(store: Path, words: Sequence[object], settings: Mapping[str, object]) -> None:
    """An extraction that stops after twenty files of its plan, and holds on to the store."""
    whole, settled = LocalFiles.settle, []

    def settle(self: LocalFiles, name: str, data: bytes) -> bool:
        while len(settled) == 20:
            time.sleep(1)
        settled.append(name)
        return whole(self, name, data)

    LocalFiles.settle = settle  # type: ignore[method-assign]
    extract_words(store, words, settings)
