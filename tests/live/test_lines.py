"""Lines of text: plain or compressed, text or JSON, with the number of the wrong line."""

import gzip
import json

import pytest

from read_cache.backbones import open_backbone
from read_cache.errors import UserError
from read_cache.live.inputs import row_texts
from read_cache.live.predict import open_lines, parse_line
from read_cache.tasks import Task

ONE = Task(name="one", template="x: {text}", labels=("a", "b"))
PAIR = Task(name="pair", template="{first} {second}", labels=("a", "b"))


@pytest.mark.parametrize("name", ["rows.txt", "rows.jsonl", "rows.txt.gz", "rows.jsonl.gz"])
def test_a_file_is_read_whatever_its_name_and_empty_lines_are_left_out(tmp_path, name) -> None:
    content = "\ufefffirst\n\n  \nsecond\r\nthe third".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with open_lines(path) as lines:
        assert list(lines) == [(1, "first"), (4, "second"), (5, "the third")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", b"good\nb\xffd\n", "line 2, cannot be read"),
        ("rows.txt.gz", b"no archive", "line 1, cannot be read"),
        ("rows.txt.gz", gzip.compress(b"good\n" * 9999)[:-12], "line .* cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    with open_lines(tmp_path / name) as lines, pytest.raises(UserError, match=message) as caught:
        list(lines)
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere.txt cannot be read"), open_lines(tmp_path / "nowhere.txt"):
        pass


def test_a_line_is_json_or_texts(bert) -> None:
    backbone = open_backbone(str(bert), "fp32")
    assert row_texts(backbone, ONE, parse_line("a river", 1), "line 1") == ("a river",)
    assert row_texts(backbone, PAIR, parse_line("a\tb", 1), "line 1") == ("a", "b")
    row = {"first": "a", "second": "b", "id": 7}
    assert parse_line(json.dumps(row), 1) == row
    assert row_texts(backbone, PAIR, row, "line 1") == ("a", "b")
    for line in ("a", "a\tb\tc"):
        with pytest.raises(UserError, match=f"line 7 has {len(line.split())} texts?, task pair needs 2 .*tab"):
            row_texts(backbone, PAIR, line, "line 7")


@pytest.mark.parametrize("line", ['{"first": ', "{" * 100_000])
def test_a_wrong_object_is_named(line) -> None:
    with pytest.raises(UserError, match="line 7 starts like a JSON object"):
        parse_line(line, 7)
