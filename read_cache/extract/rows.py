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
from read_cache.tasks import SAMPLE_TASKS, TASKS, Task

GLUE = "nyu-mll/glue"
Rows = list[dict[str, Any]]

_FILE = re.compile(
    r"(?P<split>train|validation(_matched|_mismatched)?|test)(_partial)?(-\d+-of-\d+)?\.(?P<kind>jsonl|csv|parquet)(\.gz)?"
)


def load_rows(task: Task, dataset: str | None) -> dict[str, Rows]:
    """Rows of every source split by its name: train, validation or validation_matched and _mismatched, test.

    dataset: a folder, a dataset's name on the hub, or None for the task's own source. Raises UserError.
    """
    if dataset is None and task.name in SAMPLE_TASKS:
        return load_folder(sample_folder(task.name))
    if dataset is not None and Path(dataset).is_dir():
        return load_folder(Path(dataset))
    if dataset is None and task.name not in TASKS:
        raise UserError(f"task {task.name!r} is your own: say where its rows are with --dataset FOLDER")
    return _load_from_hub(task, dataset)


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


def _load_from_hub(task: Task, dataset: str | None) -> dict[str, Rows]:
    import datasets

    name, config = (dataset, None) if dataset else (GLUE, task.name)
    try:
        loaded = datasets.load_dataset(name, config)
    except Exception as error:
        raise UserError(
            f"dataset {name}{f' ({config})' if config else ''} could not be loaded from the hub: "
            f"{_first_line(error)}. Check the name and the network, or give a local folder with --dataset FOLDER"
        ) from error
    return {str(split): rows.to_list() for split, rows in loaded.items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
