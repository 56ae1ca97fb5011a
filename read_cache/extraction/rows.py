"""A task's rows, from the hub, from a folder of jsonl, csv or parquet files or bundled, and their splits.

Splits follow the protocol of Compacter and HyperFormer, as the READ paper does. The permutation is that of
`seq2seq/data/tasks.py` in rabeehk/compacter.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import torch

from read_cache.data.samples import sample_folder
from read_cache.errors import UserError
from read_cache.hub import explain, snapshot
from read_cache.tasks import SAMPLE_TASKS, TASKS, Protocol, Task

GLUE = "nyu-mll/glue"
Rows = list[dict[str, Any]]

_HUB_NAME = re.compile(r"(?P<name>[^/@]+(/[^/@]+)?)(/(?P<config>[^/@]+))?(@(?P<revision>.+))?")
_CARD = ["README.md", ".gitattributes"]
"""Files that say which commit a dataset is at; every dataset of the hub has one of them."""

_FILE = re.compile(
    r"(?P<split>train|validation(_matched|_mismatched)?|test)(_partial)?"
    r"(?P<shard>-(?P<number>\d+)-of-(?P<shards>\d+))?\.(?P<kind>jsonl|csv|parquet)(\.gz)?"
)
PROTOCOL_SEED = 42
HELD_OUT_ROWS = 1_000
CSV_BLOCK = 1 << 28
"""Bytes that pyarrow parses at once. A row must fit into a block; pyarrow's own default is 1 MiB."""


def load_rows(task: Task, dataset: str | None) -> dict[str, Rows]:
    """Return the rows of every source split by its name: train, validation[_matched|_mismatched], test.

    dataset: a folder, a dataset of the hub as OWNER/NAME[/CONFIG][@REVISION], or None for the task's own source.
    Raises UserError.
    """
    if dataset is None and task.name in SAMPLE_TASKS:
        return load_folder(sample_folder(task.name))
    if dataset is not None and not dataset:
        raise UserError("dataset is empty, expected a folder or OWNER/NAME[/CONFIG][@REVISION]")
    if dataset is not None and Path(dataset).is_dir():
        return load_folder(Path(dataset))
    if dataset is not None and Path(dataset).is_file():
        raise UserError(
            f"dataset {dataset} is a file, expected a folder with files such as train.jsonl and validation.jsonl: "
            "name the file after its split and give its folder"
        )
    if dataset is None and task.name not in TASKS:
        raise UserError(f"task {task.name!r} is your own: set dataset to the folder of its rows")
    return _load_from_hub(source_name(task, dataset))


def source_name(task: Task, dataset: str | None) -> str:
    """Return the dataset's name as the manifest records it."""
    return dataset or ("bundled" if task.name in SAMPLE_TASKS else f"{GLUE}/{task.name}")


def load_folder(folder: Path) -> dict[str, Rows]:
    """Return the rows of files named SPLIT.jsonl, .csv or .parquet (also .gz), SPLIT_partial or SPLIT-0000X-of-0000Y.

    Raises UserError, also if two files hold the same split, or a shard is missing.
    """
    files: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for path in sorted(folder.iterdir()):
        if match := _FILE.fullmatch(path.name):
            files.setdefault(match["split"], []).append((path, match))
    if not files:
        raise UserError(
            f"{folder} holds no rows: expected files such as train.jsonl, validation.csv.gz or test.parquet, "
            f"found {', '.join(sorted(p.name for p in folder.iterdir())[:5]) or 'nothing'}"
        )
    for split, found in files.items():
        if len(found) > 1 and any(not match["shard"] for _, match in found):
            names = " and ".join(str(path) for path, _ in found[:2])
            raise UserError(f"{names} both hold rows of {split}: leave one of them in the folder")
        shards = Counter((int(match["number"]), int(match["shards"])) for _, match in found if match["shard"])
        total = max((total for _, total in shards), default=0)
        expected = Counter((number, total) for number in range(total))
        if shards != expected:
            raise UserError(
                f"{folder} holds shards of {split}, expected each of {total} once: "
                f"missing {_names(expected - shards)}, to be removed {_names(shards - expected)}"
            )
    return {
        split: [row for path, match in found for row in _read_file(path, match["kind"])]
        for split, found in files.items()
    }


def _names(shards: Iterable[tuple[int, int]]) -> str:
    """Return the names of the first shards, or none."""
    return ", ".join(f"{number:05}-of-{total:05}" for number, total in sorted(shards)[:5]) or "none"


def _read_file(path: Path, kind: str) -> Rows:
    """Return the rows of a file, plain or compressed. Raises UserError, which names the file and a wrong line."""
    try:
        with pyarrow.input_stream(str(path)) as stream:  # decompresses by the file's name
            data = stream.read()
        if not data.strip():
            return []
        if kind == "jsonl":
            return _json_rows(data)
        source = pyarrow.BufferReader(data)
        if kind == "parquet":
            return pyarrow.parquet.read_table(source).to_pylist()
        parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
        reading = pyarrow.csv.ReadOptions(block_size=min(len(data) + 1, CSV_BLOCK))
        names = pyarrow.csv.open_csv(pyarrow.BufferReader(data), reading, parsing).schema.names
        as_written = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
        return pyarrow.csv.read_csv(source, reading, parsing, as_written).to_pylist()
    except (OSError, RecursionError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as {kind}: {error}") from error


def _json_rows(data: bytes) -> Rows:
    """Return one row a line. Unlike `datasets`, columns that no task reads may mix types, and errors name the line."""
    rows: Rows = []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(rows[-1], dict):
                raise ValueError(f"line {number} is not a JSON object")
    return rows


def _load_from_hub(name: str) -> dict[str, Rows]:
    """Rows of a dataset of the hub; the commit is settled first, so that a cache of another one is not taken for it."""
    import datasets

    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(f"dataset {name} is neither a local folder nor of the form OWNER/NAME[/CONFIG][@REVISION]")
    try:
        commit = snapshot(match["name"], "dataset", match["revision"], _CARD).name
        loaded = datasets.load_dataset(match["name"], match["config"], revision=commit)
    except Exception as error:
        raise UserError(
            f"dataset {name} could not be loaded from the hub: {explain(error, match['revision'])}. "
            "Expected OWNER/NAME[/CONFIG][@REVISION], or a local folder"
        ) from error
    cached = {Path(file["filename"]).parent.name for rows in loaded.values() for file in rows.cache_files}
    if cached != {commit}:
        raise UserError(
            f"dataset {name} is at commit {commit}; without the hub, {datasets.config.HF_DATASETS_CACHE} gives only "
            f"what it holds last, {', '.join(sorted(cached))}: run where the hub can be reached"
        )
    return {str(split): rows.to_list() for split, rows in loaded.items()}


def protocol_splits(source: dict[str, Rows], protocol: Protocol) -> dict[str, Rows]:
    """Return train, validation and, if there is one, test rows. Raises UserError for a split that is absent or empty.

    halve_validation (CoLA, MRPC, RTE, STS-B, WNLI): the permuted validation rows' first half validates, the rest tests.
    hold_out_of_train (QQP, QNLI, SST-2): the first 1,000 permuted training rows validate; validation rows test.
    mnli: mismatched rows validate, matched rows test. as_given: the source's own splits.
    """

    def take(name: str) -> Rows:
        if name not in source:
            raise UserError(f"the dataset has no {name} split: {sizes}")
        return source[name]

    sizes = "found " + (", ".join(f"{name} ({len(rows)} rows)" for name, rows in source.items()) or "no splits")
    test: Rows | None
    train = take("train")
    if protocol == "halve_validation":
        rows = _permuted(take("validation"))
        validation, test = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    elif protocol == "hold_out_of_train":
        rows, test = _permuted(train), take("validation")
        validation, train = rows[:HELD_OUT_ROWS], rows[HELD_OUT_ROWS:]
    elif protocol == "mnli":
        validation, test = take("validation_mismatched"), take("validation_matched")
    else:
        validation, test = take("validation"), source.get("test")
    splits = {"train": train, "validation": validation} | ({} if test is None else {"test": test})
    for name, rows in splits.items():
        if not rows:
            how = "" if protocol == "as_given" else f" under protocol {protocol}"
            raise UserError(f"the {name} split is empty{how}: {sizes}")
    return splits


def _permuted(rows: Rows) -> Rows:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(PROTOCOL_SEED))
    return [rows[i] for i in order.tolist()]
