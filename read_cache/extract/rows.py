"""A task's rows: from the hub, from a folder of jsonl, csv or parquet files, or bundled."""

import gzip
import io
import re
import zlib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from read_cache.data.samples import sample_folder
from read_cache.errors import UserError
from read_cache.extract.hub import explain, snapshot
from read_cache.tasks import SAMPLE_TASKS, TASKS, Task

GLUE = "nyu-mll/glue"
Rows = list[dict[str, Any]]

_HUB_NAME = re.compile(r"(?P<name>[^/@]+(/[^/@]+)?)(/(?P<config>[^/@]+))?(@(?P<revision>.+))?")
_CARD = ["README.md", ".gitattributes"]
"""Files that say which commit a dataset is at; every dataset of the hub has one of them."""

_FILE = re.compile(
    r"(?P<split>train|validation(_matched|_mismatched)?|test)(_partial)?(-\d+-of-\d+)?\.(?P<kind>jsonl|csv|parquet)(\.gz)?"
)


def load_rows(task: Task, dataset: str | None) -> dict[str, Rows]:
    """Rows of every source split by its name: train, validation or validation_matched and _mismatched, test.

    dataset: a folder, a dataset of the hub as OWNER/NAME[/CONFIG][@REVISION], or None for the task's own source.
    Raises UserError.
    """
    if dataset is None and task.name in SAMPLE_TASKS:
        return load_folder(sample_folder(task.name))
    if dataset is not None and Path(dataset).is_dir():
        return load_folder(Path(dataset))
    if dataset is None and task.name not in TASKS:
        raise UserError(f"task {task.name!r} is your own: say where its rows are with --dataset FOLDER")
    return _load_from_hub(source_name(task, dataset))


def source_name(task: Task, dataset: str | None) -> str:
    """What the manifest says of where the rows came from."""
    return dataset or ("bundled" if task.name in SAMPLE_TASKS else f"{GLUE}/{task.name}")


def load_folder(folder: Path) -> dict[str, Rows]:
    """Files named SPLIT.jsonl, .csv or .parquet, plain or .gz; SPLIT_partial and SPLIT-00000-of-00001 count too."""
    splits: dict[str, Rows] = {}
    for path in sorted(folder.iterdir()):
        if match := _FILE.fullmatch(path.name):
            splits.setdefault(match["split"], []).extend(_read_file(path, match["kind"]))
    if not splits:
        raise UserError(
            f"{folder} holds no rows: expected files such as train.jsonl, validation.csv.gz or test.parquet, "
            f"found {', '.join(sorted(p.name for p in folder.iterdir())[:5]) or 'nothing'}"
        )
    return splits


def _read_file(path: Path, kind: str) -> Rows:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if not data.strip():
            return []
        source = io.BytesIO(data)
        if kind == "jsonl":
            table = pyarrow.json.read_json(source)
        elif kind == "csv":
            table = pyarrow.csv.read_csv(source, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
        else:
            table = pyarrow.parquet.read_table(source)
        return table.to_pylist()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as {kind}: {error}") from error


def _load_from_hub(name: str) -> dict[str, Rows]:
    """Rows of a dataset of the hub; the commit is settled first, so that a cache of another one is not taken for it."""
    import datasets

    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(f"dataset {name} is neither a folder here nor of the form OWNER/NAME[/CONFIG][@REVISION]")
    try:
        commit = snapshot(match["name"], "dataset", match["revision"], _CARD).name
        loaded = datasets.load_dataset(match["name"], match["config"], revision=commit)
    except Exception as error:
        raise UserError(
            f"dataset {name} could not be loaded from the hub: {explain(error, match['revision'])}. "
            "--dataset takes OWNER/NAME[/CONFIG][@REVISION], or a local folder"
        ) from error
    cached = {Path(file["filename"]).parent.name for rows in loaded.values() for file in rows.cache_files}
    if cached != {commit}:
        raise UserError(
            f"dataset {name} is at commit {commit}; without the hub, {datasets.config.HF_DATASETS_CACHE} gives only "
            f"what it holds last, {', '.join(sorted(cached))}: run where the hub can be reached"
        )
    return {str(split): rows.to_list() for split, rows in loaded.items()}
