"""Rows of local files: what is written is what is read."""

import gzip
import json
from pathlib import Path

import pytest

from read_cache.errors import UserError
from read_cache.extraction.rows import load_folder, load_rows
from read_cache.tasks import TASKS, Task


def write_rows(folder: Path, name: str, *rows: dict) -> None:
    """A jsonl file."""
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_texts_that_look_like_something_else_stay_as_they_are(tmp_path) -> None:
    texts = ["0070", "1.10", "1e3", "2020-01-01", "true", ""]
    (tmp_path / "train.csv").write_text("sentence,label\n" + "".join(f'"{text}",0\n' for text in texts))
    write_rows(tmp_path, "validation.jsonl", *({"sentence": text, "label": 0} for text in texts))
    rows = load_folder(tmp_path)
    assert [row["sentence"] for row in rows["train"]] == [row["sentence"] for row in rows["validation"]] == texts


def test_a_csv_row_may_be_longer_than_a_block_of_pyarrow(tmp_path) -> None:
    text = "word " * 900_000
    (tmp_path / "train.csv").write_text(f"sentence,label\na,0\n{text},1\n")
    assert [row["sentence"] for row in load_folder(tmp_path)["train"]] == ["a", text]


def test_columns_that_no_task_reads_may_hold_anything(tmp_path) -> None:
    write_rows(
        tmp_path, "train.jsonl", {"sentence": "a", "id": 1}, {"sentence": "b\u2028", "id": "x"}, {"sentence": "c"}
    )
    assert load_folder(tmp_path)["train"] == [
        {"sentence": "a", "id": 1}, {"sentence": "b\u2028", "id": "x"}, {"sentence": "c"},
    ]  # fmt: skip


@pytest.mark.parametrize("second", ["train.jsonl.gz", "train.csv", "train_partial.jsonl", "train-00000-of-00002.jsonl"])
def test_a_split_that_is_there_twice_is_refused(tmp_path, second) -> None:
    write_rows(tmp_path, "train.jsonl", {"sentence": "a", "label": 0})
    data = (tmp_path / "train.jsonl").read_bytes() if "csv" not in second else b"sentence,label\na,0\n"
    (tmp_path / second).write_bytes(gzip.compress(data) if second.endswith(".gz") else data)
    with pytest.raises(UserError, match=r"both hold rows of train"):
        load_folder(tmp_path)


def test_pieces_of_a_split_add_up(tmp_path) -> None:
    for piece in range(2):
        write_rows(tmp_path, f"train-0000{piece}-of-00002.jsonl", {"sentence": str(piece), "label": 0})
    assert [row["sentence"] for row in load_folder(tmp_path)["train"]] == ["0", "1"]


@pytest.mark.parametrize(
    ("names", "facts"),
    [
        (["0-of-3.jsonl", "2-of-3.jsonl"], "missing 00001-of-00003, to be removed none"),
        (["0-of-2.jsonl", "1-of-2.jsonl", "1-of-2.csv"], "missing none, to be removed 00001-of-00002"),
        (["0-of-1.jsonl", "0-of-2.jsonl", "1-of-2.jsonl"], "missing none, to be removed 00000-of-00001"),
        (["0-of-2.jsonl", "2-of-2.jsonl"], "missing 00001-of-00002, to be removed 00002-of-00002"),
    ],
)
def test_a_missing_or_double_piece_is_named(tmp_path, names, facts) -> None:
    for name in names:
        (tmp_path / f"train-{name}").write_text("sentence\na\n" if "csv" in name else '{"sentence": "a"}\n')
    with pytest.raises(UserError, match=f"{tmp_path} holds shards of train.*{facts}"):
        load_folder(tmp_path)


def test_a_dataset_that_is_a_file_is_refused(tmp_path) -> None:
    write_rows(tmp_path, "train.jsonl", {"sentence": "a", "label": 0})
    with pytest.raises(UserError, match=r"train\.jsonl is a file, expected a folder"):
        load_rows(TASKS["cola"], str(tmp_path / "train.jsonl"))


def test_an_empty_dataset_name_and_a_task_without_rows_are_refused() -> None:
    with pytest.raises(UserError, match="dataset is empty"):
        load_rows(TASKS["cola"], "")
    with pytest.raises(UserError, match="'mine' is your own: set dataset"):
        load_rows(Task(name="mine", template="{text}", labels=("a", "b")), None)


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("train.jsonl", b'{"sentence": "a"}\n[1]\n', "line 2"),
        ("train.jsonl", b'{"sentence": \n', "line 1"),
        ("train.parquet", b"not parquet", r"train\.parquet cannot be read as parquet"),
        ("train.jsonl.gz", b"not gzip", r"train\.jsonl\.gz cannot be read"),
        ("rows.txt", b"a", r"holds no rows.*rows\.txt"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, fact) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=fact):
        load_folder(tmp_path)
