"""Lines of text: plain or compressed, text or JSON, with the number of the wrong line."""

import gzip
import json

import pytest

from read_cache.errors import UserError
from read_cache.live.predict import open_lines, parse_line
from read_cache.tasks import Task

ONE = Task(name="one", template="x: {text}", labels=("a", "b"))
PAIR = Task(name="pair", template="{first} {second}", labels=("a", "b"))


@pytest.mark.parametrize("name", ["rows.txt", "rows.jsonl", "rows.txt.gz", "rows.jsonl.gz"])
def test_a_file_is_read_whatever_its_name_and_empty_lines_are_left_out(tmp_path, name) -> None:
    content = "\ufefffirst\n\n  \nsecond\r\nthe third".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with open_lines(path) as (raw, lines):
        assert list(lines) == [(1, "first\n"), (4, "second\r\n"), (5, "the third")]
        assert raw.tell() == path.stat().st_size


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
    with open_lines(tmp_path / name) as (_, lines), pytest.raises(UserError, match=message) as caught:
        list(lines)
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"nowhere.txt cannot be read"), open_lines(tmp_path / "nowhere.txt"):
        pass


def test_a_line_is_json_or_texts() -> None:
    assert parse_line("a river\n", ONE, 1) == {"text": "a river"}
    assert parse_line("a\tb\r\n", PAIR, 1) == {"first": "a", "second": "b"}
    assert parse_line(json.dumps({"first": "a", "second": 2, "id": 7}), PAIR, 1) == {"first": "a", "second": 2, "id": 7}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a", "line 7 has 1 texts, task pair needs 2 .*tab"),
        ("a\tb\tc", "line 7 has 3 texts"),
        ('{"first": ', "line 7 starts like a JSON object"),
        ("{" * 100_000, "line 7 starts like a JSON object"),
    ],
)
def test_a_wrong_line_is_named(line, message) -> None:
    with pytest.raises(UserError, match=message):
        parse_line(line, PAIR, 7)
