"""Rows of local files: what is written is what is read, whatever it looks like."""

import gzip
import json
from pathlib import Path

import pytest

from read_cache.backbones.t5 import Backbone
from read_cache.data import bundled_backbone
from read_cache.errors import UserError
from read_cache.extract.encode import Encoder
from read_cache.extract.rows import load_folder
from read_cache.tasks import Task

NAME = "t5-tiny-wiki"


@pytest.fixture(scope="module")
def encoder_of():
    """An encoder of a task with given labels."""
    backbone = Backbone(str(bundled_backbone(NAME)))

    def make(*labels: str, **settings) -> Encoder:
        task = Task(name="mine", template="q: {sentence}", labels=labels, **settings)
        return Encoder(task, backbone.tokenizer, backbone.start_token, 128)

    return make


def write_rows(folder: Path, name: str, *rows: dict) -> None:
    """A jsonl file."""
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("labels", [("true", "false"), ("1", "0"), ("no", "yes"), ("1", "2", "3", "4", "5")])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_label_that_is_written_out_is_that_label(tmp_path, encoder_of, labels, kind) -> None:
    rows = [{"sentence": "a river", "label": label} for label in labels]
    if kind == "jsonl":
        write_rows(tmp_path, "train.jsonl", *rows)
    else:
        (tmp_path / "train.csv").write_text("sentence,label\n" + "".join(f"a river,{label}\n" for label in labels))
    encoded = encoder_of(*labels).encode(load_folder(tmp_path)["train"], "train")
    assert encoded.label.tolist() == list(range(len(labels)))


def test_label_numbers_of_a_csv_count_from_zero(tmp_path, encoder_of) -> None:
    (tmp_path / "train.csv").write_text("sentence,label\na river,1\na town,0\n")
    assert encoder_of("no", "yes").encode(load_folder(tmp_path)["train"], "train").label.tolist() == [1, 0]


def test_scores_of_a_csv_are_numbers(tmp_path, encoder_of) -> None:
    (tmp_path / "train.csv").write_text("sentence,label\na river,4.1\na town,0\n")
    encoder = encoder_of("0.0", "2.5", "5.0", scores=True, metric="pearson_spearman")
    assert encoder.encode(load_folder(tmp_path)["train"], "train").score.tolist() == pytest.approx([4.1, 0])


@pytest.mark.parametrize(("label", "labels"), [(True, ("true", "false")), (1, ("1", "0")), (0, ("1", "0"))])
def test_a_number_that_could_be_two_labels_is_refused(encoder_of, label, labels) -> None:
    with pytest.raises(UserError, match=r"train row 0: label .* could be the label .*write it as text"):
        encoder_of(*labels).encode([{"sentence": "a river", "label": label}], "train")


def test_texts_that_look_like_something_else_stay_as_they_are(tmp_path) -> None:
    texts = ["0070", "1.10", "1e3", "2020-01-01", "true", ""]
    (tmp_path / "train.csv").write_text("sentence,label\n" + "".join(f'"{text}",0\n' for text in texts))
    write_rows(tmp_path, "validation.jsonl", *({"sentence": text, "label": 0} for text in texts))
    found = load_folder(tmp_path)
    assert [row["sentence"] for row in found["train"]] == [row["sentence"] for row in found["validation"]] == texts


def test_columns_that_no_task_reads_may_hold_anything(tmp_path) -> None:
    write_rows(
        tmp_path, "train.jsonl", {"sentence": "a", "id": 1}, {"sentence": "b\u2028", "id": "x"}, {"sentence": "c"}
    )
    assert load_folder(tmp_path)["train"] == [
        {"sentence": "a", "id": 1}, {"sentence": "b\u2028", "id": "x"}, {"sentence": "c", "id": None},
    ]  # fmt: skip


@pytest.mark.parametrize("second", ["train.jsonl.gz", "train.csv", "train_partial.jsonl", "train-00000-of-00002.jsonl"])
def test_a_split_that_is_there_twice_is_refused(tmp_path, second) -> None:
    write_rows(tmp_path, "train.jsonl", {"sentence": "a", "label": 0})
    data = (tmp_path / "train.jsonl").read_bytes() if "csv" not in second else b"sentence,label\na,0\n"
    (tmp_path / second).write_bytes(gzip.compress(data) if second.endswith(".gz") else data)
    with pytest.raises(UserError, match=r"both hold rows of train: leave one of them"):
        load_folder(tmp_path)


def test_pieces_of_a_split_add_up(tmp_path) -> None:
    for piece in range(2):
        write_rows(tmp_path, f"train-0000{piece}-of-00002.jsonl", {"sentence": str(piece), "label": 0})
    assert [row["sentence"] for row in load_folder(tmp_path)["train"]] == ["0", "1"]


def test_text_that_is_no_unicode_is_told_of_with_its_row(encoder_of) -> None:
    with pytest.raises(UserError, match="train row 1: the text is not Unicode"):
        encoder_of("no", "yes").encode([{"sentence": "a", "label": 0}, {"sentence": "\ud800", "label": 0}], "train")
