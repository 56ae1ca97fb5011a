"""`read-cache predict`."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from read_cache.networks.saved import save_network
from support.live import make_stores, network_of, saved_weights
from support.processes import run as run_here
from support.processes import run_cli

KINDS = {"read": {}, "ladder": {"reduction": 2}, "probe": {}}


@pytest.fixture(scope="module")
def run(tmp_path_factory, rows_folder) -> Path:
    """Three networks of the `words` task in `words/`, and one of an open target in `open/`."""
    folder = tmp_path_factory.mktemp("run")
    stores = make_stores(folder / "stores", rows_folder, "bf16", "open")
    for name, kinds in (("bf16", KINDS), ("open", {"read": {}})):
        for kind, settings in kinds.items():
            one = network_of(stores[name], kind, **settings)
            place = folder / ("open" if name == "open" else "words") / kind
            save_network(place, one.record, saved_weights(one), one.calibration)
    shutil.rmtree(folder / "stores")
    return folder


@pytest.fixture(scope="module")
def sentences(rows_folder) -> list[str]:
    rows = (rows_folder / "words" / "test.jsonl").read_text().splitlines()
    return [json.loads(row)["sentence"] for row in rows]


def test_a_byte_order_mark_is_no_text_and_cut_texts_are_counted(tmp_path, run, models, monkeypatch, capsys) -> None:
    file, row = tmp_path / "rows.jsonl", json.dumps({"sentence": "the river"})
    printed = []
    for text in (row, "\ufeff" + row, "the river " * 200):
        file.write_text(text + "\n", encoding="utf-8")
        words = ["predict", "--network", run / "words", "--model", models["tied"], "--file", file, "--json"]
        code, out, err = run_here(words, monkeypatch, capsys)
        assert code == 0, err
        printed.append(out)
        assert ("1 texts are longer than 128 tokens and were cut" in err) == (len(text) > 1000)
    assert printed[0] == printed[1]
    assert [json.loads(line)["network"] for line in printed[0].splitlines()] == ["ladder-", "probe-", "read-gru"]


def test_a_compressed_file_gives_what_the_plain_one_gives(
    tmp_path, run, models, sentences, monkeypatch, capsys
) -> None:
    content = "\n".join(sentences).encode()
    (tmp_path / "x").write_bytes(content)
    (tmp_path / "x.gz").write_bytes(gzip.compress(content))
    outputs = []
    for file in ("x", "x.gz"):
        words = ["predict", "--network", run / "words", "--model", models["tied"], "--file", tmp_path / file]
        code, out, err = run_here(words, monkeypatch, capsys)
        assert code == 0, err
        outputs.append(out)
    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") == 3 * len(sentences)


def test_an_open_target_is_generated_and_settings_are_checked(run, models, monkeypatch, capsys) -> None:
    words = ["predict", "--network", run / "open", "--model", models["tied"], "the river", "people live", "--json"]
    texts = {}
    for limit in (1, 6):
        code, out, err = run_here([*words, "--set", f"max_new_tokens={limit}"], monkeypatch, capsys)
        assert code == 0, err
        rows = [json.loads(line) for line in out.splitlines()]
        assert [row["text"] for row in rows] == ["words: the river", "words: people live"]
        texts[limit] = [row["label"] for row in rows]
    assert all(long.startswith(short) for short, long in zip(*texts.values(), strict=True))
    assert texts[1] != texts[6]
    for wrong, message in (("max_new_tokens=0", "max_new_tokens"), ("beams=3", "beams")):
        code, _, err = run_here([*words, "--set", wrong], monkeypatch, capsys)
        assert code == 2
        assert message in err


def test_plain_output_names_label_and_shares(run, models, monkeypatch, capsys) -> None:
    words = ["predict", "--network", run / "words", "--model", models["tied"], "the river", "people live"]
    code, out, err = run_here(words, monkeypatch, capsys)
    assert code == 0, err
    rows = [line.split("\t") for line in out.splitlines()]
    assert len(rows) == 6
    assert {row[0] for row in rows} == {"ladder-", "probe-", "read-gru"}
    assert all(row[1] in ("no", "yes it is", "yes it was") and row[2].startswith(f"({row[1]} 0.") for row in rows)
    assert [row[3] for row in rows[::3]] == ["words: the river", "words: people live"]


def test_the_command_reads_a_file_and_names_the_line_that_is_wrong(tmp_path, run, models, sentences) -> None:
    source = tmp_path / "in.txt"
    source.write_text("\n".join([sentences[0], "", *sentences[1:], "too\tmany", sentences[0]]) + "\n", encoding="utf-8")
    options = ("--model", models["tied"], "--network", run / "words", "--file", source, "--json")
    done = run_cli("predict", *options, "--batch-size", 2)
    assert done.returncode == 2
    assert f"line {len(sentences) + 2} has 2 texts, task words needs 1" in done.stderr
    source.write_text(source.read_text().replace("too\tmany\n", ""), encoding="utf-8")
    done = run_cli("predict", *options, "--batch-size", 2)
    assert done.returncode == 0
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["line"] for one in found[::3]] == [1, *range(3, len(sentences) + 2), len(sentences) + 2]
