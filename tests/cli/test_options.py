"""Options that commands take from settings: where --set gives the same setting, it wins in every command."""

import json
from pathlib import Path

from support.processes import run


def test_set_wins_over_the_option_of_the_same_setting(
    words_store, models, rows_folder, tmp_path, command, monkeypatch, capsys
) -> None:
    rows = ("--model", models["tied"], "--task", rows_folder / "words.toml", "--dataset", rows_folder / "words")
    both = ("--device", "abacus", "--set", "device=cpu")
    command("extract", *rows, "--store", tmp_path / "store", "--dtype", "bf16", *both, "--set", "dtype=fp32")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert manifest["activations"]["format"]["dtype"] == "fp32"
    command("plan", *rows, "--sample-rows", 0, *both, "--train-set", "device=cpu")
    trained = ("--store", words_store, "--epochs", 3, *both, "--set", "epochs=1")
    for name, method in (("train", "--network"), ("compare", "--method")):
        command(name, *trained, "--out", tmp_path / name, method, "probe")
        (line,) = next((tmp_path / name).glob("**/results.jsonl")).read_text().splitlines()
        assert json.loads(line)["run"]["epochs"] == 1
    network = next(Path(tmp_path, "train").glob("*/probe*"))
    command("predict", "--model", models["tied"], "--network", network, *both, "the old river")
    code, _, err = run(
        ["predict", "--model", models["tied"], "--network", network, *both[:2], "x"], monkeypatch, capsys
    )
    assert (code, "abacus" in err) == (2, True)
