"""Bad input ends in one clear message and its exit code: no traceback, nothing half-written, nothing changed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import make_store, run_cli
from processes import contents, run
from read_cache.networks.config import ReadConfig
from read_cache.store.manifest import StoreFolder
from read_cache.train.grid import NetworkConfig, TrainConfig
from read_cache.train.run import train_store
from spoil import (
    GOOD,
    LABELS,
    World,
    call,
    cut,
    flipped,
    only_bin,
    replace,
    too_small_vocabulary,
    with_nan,
    without_weight,
)

WHOLE = {"manifest.json", "results.jsonl", "config.json"}
"""Files whose existence says that what they belong to is complete."""

BERT = b'{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}'
OPEN = 'template = "{sentence}"\ntarget = "{label}"\nmetric = "token_accuracy"\n'
SCORES = 'template = "{sentence}"\nlabels = ["0.0", "5.0"]\nscores = true\nmetric = "pearson_spearman"\n'
ARRAY = "arrays.zarr/train/encoder/hidden"
CHUNK = f"{ARRAY}/c/0/2/0"
NAMED = "train/encoder/hidden/c/0/2/0"
HEAD = "arrays.zarr/head/weight/c/0/0"
PLAN = "arrays.zarr/validation/length/c/0"
LONG = [{"sentence": "river " * 200, "label": 0}]

Case = tuple[str, str, Callable[[World], list[object]]]
MODELS: list[Case] = [
    ("no config.json", "has no config.json", lambda w: w.extract(model=w.model("config.json", None))),
    ("config.json damaged", "configuration cannot be read", lambda w: w.extract(model=w.model("config.json", b"{"))),
    ("another architecture", "is a bert; expected one of t5", lambda w: w.extract(model=w.model("config.json", BERT))),
    ("only .bin weights", "no safetensors weights", lambda w: w.extract(model=only_bin(w))),
    ("truncated weights", "weights cannot be loaded",
     lambda w: w.extract(model=w.model("model.safetensors", cut(w.weights.read_bytes())))),
    ("a weight missing", "lacks 1 weights, first decoder.final_layer", lambda w: w.extract(model=without_weight(w))),
    ("no tokenizer", "has no tokenizer in", lambda w: w.extract(model=w.model("tokenizer.json", None))),
    ("tokenizer of another model", "the tokenizer of another model?",
     lambda w: w.extract(model=too_small_vocabulary(w))),
    ("NaN", "encoder hidden states are not finite at layer 2", lambda w: w.extract(model=with_nan(w))),
    ("no such device", "device 'abacus' cannot be used", lambda w: w.extract(device="abacus")),
]  # fmt: skip
TASKS: list[Case] = [
    ("unknown task", "unknown task 'colla'; known", lambda w: call("extract", model="t5-tiny-wiki", task="colla")),
    ("task file missing", "task file none.toml cannot be read", lambda w: [*w.extract(), "--task", "none.toml"]),
    ("task name a path", "names folders", lambda w: w.extract('name = "../x"\n' + LABELS)),
    ("task file no TOML", "is not valid TOML", lambda w: w.extract("template =")),
    ("unknown key", "unknown keys lables; known: name", lambda w: w.extract(LABELS + 'lables = ["a"]')),
    ("no template", "no `template`", lambda w: w.extract('labels = ["no", "yes"]')),
    ("labels and target", "not both", lambda w: w.extract(LABELS + 'target = "{sentence}"')),
    ("neither", "not neither", lambda w: w.extract('template = "{sentence}"')),
    ("one label", "two or more and differ", lambda w: w.extract('template = "{sentence}"\nlabels = ["no"]')),
    ("labels no strings", "must be a list of strings", lambda w: w.extract('template = "{sentence}"\nlabels = [0, 1]')),
    ("template without field", "names no field", lambda w: w.extract('template = "words"\nlabels = ["a", "b"]')),
    ("template unclosed", "cannot be read", lambda w: w.extract('template = "{sentence"\nlabels = ["a", "b"]')),
    ("template with a nameless field", "a column's name alone",
     lambda w: w.extract('template = "{sentence} {}"\nlabels = ["a", "b"]')),
    ("template with a format", "a column's name alone",
     lambda w: w.extract('template = "{sentence:d}"\nlabels = ["a", "b"]')),
    ("wrong metric", "metric 'f1' is none of", lambda w: w.extract(LABELS + 'metric = "f1"')),
    ("metric of the other kind", "belongs to open targets", lambda w: w.extract(LABELS + 'metric = "token_accuracy"')),
    ("scores with words for labels", "labels that are ascending", lambda w: w.extract(LABELS + "scores = true")),
    ("GLUE's protocol on own files", "use their files as given", lambda w: w.extract(LABELS + 'protocol = "mnli"')),
]  # fmt: skip
ROWS: list[Case] = [
    ("no --dataset", "say where its rows are", lambda w: w.extract()[:-2]),
    ("no rows", "holds no rows", lambda w: w.extract(dataset=w.write("empty/notes.txt", "").parent)),
    ("no column", "no column 'sentence'", lambda w: w.extract_row(text="a", label=0)),
    ("no column in one row", "None, expected text", lambda w: w.extract(dataset=w.rows(train=[*GOOD, {"label": 0}]))),
    ("no validation", "no validation split: found train", lambda w: w.extract(dataset=w.rows(validation=None))),
    ("empty split", "validation split is empty", lambda w: w.extract(dataset=w.rows(validation=""))),
    ("malformed jsonl", "train.jsonl cannot be read as", lambda w: w.extract(dataset=w.rows(train='{"sentence": '))),
    ("jsonl not UTF-8", "train.jsonl cannot be read as jsonl",
     lambda w: w.extract(dataset=w.rows(train=b'{"sentence": "caf\xe9", "label": 0}\n'))),
    ("damaged gzip", "train.jsonl.gz cannot be read as jsonl",
     lambda w: w.extract(dataset=w.write("gz/train.jsonl.gz", b"\x1f\x8b\x08" + b"\0" * 7 + b"\xff" * 9).parent)),
    ("parts of a split that differ", "no column 'label'",
     lambda w: w.extract(dataset=w.rows(train=None, **{"train-0-of-2": GOOD, "train-1-of-2": '{"sentence": "a"}'}))),
    ("wrong label", "train row 1: label 2 is none of 0..1 or no, yes",
     lambda w: w.extract(dataset=w.rows(train=[GOOD[0], {"sentence": "a", "label": 2}]))),
    ("hidden label", "(its labels are hidden)",
     lambda w: w.extract(dataset=w.rows(test=[{"sentence": "a", "label": -1}]))),
    ("no label", "label None is none of", lambda w: w.extract(dataset=w.rows(test=[{"sentence": "a", "label": None}]))),
    ("score out of range", "score 5.5 is no number from 0.0 to 5.0",
     lambda w: w.extract_row(SCORES, sentence="a", label=5.5)),
    ("score is text", "score 'high' is no number", lambda w: w.extract_row(SCORES, sentence="a", label="high")),
    ("empty text", "train row 0: the text is empty", lambda w: w.extract_row(sentence=" ", label=0)),
    ("text is null", "'sentence' is None", lambda w: w.extract_row(sentence=None, label=0)),
    ("text is a list", "'sentence' is ['a']", lambda w: w.extract_row(sentence=["a"], label=0)),
    ("target is null", "train row 2: 'label' is None, expected text",
     lambda w: w.extract(OPEN, dataset=w.rows(train=[*GOOD, {"sentence": "a", "label": None}]))),
    ("too long", "more than the limit of 128 (1 rows do)",
     lambda w: w.extract(dataset=w.rows(train=LONG), on_long="error")),
]  # fmt: skip
SETTINGS: list[Case] = [
    ("contradiction", "bf16's precision in twice the bytes", lambda w: w.extract(dtype="fp32", compute_dtype="bf16")),
    ("no such dtype", "'fp64' is not one of", lambda w: w.extract(dtype="fp64")),
    ("no examples", "--max-examples is 0, expected at least 1", lambda w: w.extract(max_examples=0)),
    ("store is a file", "exists and is no store", lambda w: w.extract(store=w.write("file", "text"))),
    ("store is a full folder", "exists and is no store", lambda w: w.extract(store=w.write("full/file", "").parent)),
    ("store below a file", "cannot be written", lambda w: w.extract(store=w.write("file", "") / "store")),
    ("store in /proc", "cannot be written", lambda w: w.extract(store="/proc/store")),
    ("store of other rows", "fingerprint differs", lambda w: w.extract(store=w.copy(w.sealed))),
    ("store of another dtype", "dtype is bf16, asked", lambda w: w.extract_words(w.copy(w.sealed), dtype="fp32")),
    ("begun with another dtype", "an unfinished store", lambda w: w.extract_words(w.unsealed(), dtype="fp32")),
    ("no such cell", "cell 'elman' is none of rnn, gru, lstm", lambda w: w.train(cell="elman")),
    ("--layers no layers", "--layers '2-' is no list of layers", lambda w: w.extract(layers="2-")),
    ("--layers beyond the model", "names layer 9, but the encoder has layers 1-3", lambda w: w.extract(layers="1,9")),
    ("--rank as wide as the states", "--rank is 32, but states have 32 channels", lambda w: w.extract(rank=32)),
    ("--worker 3/2", "--worker '3/2' is not of the form 2/4", lambda w: w.extract(worker="3/2")),
    ("train --layers beyond the store", "but the store's encoder has layers 1-3", lambda w: w.train(layers="4")),
    ("--window 0", "--window is 0, expected more than 0", lambda w: w.train(window=0)),
    ("--lr 0", "--lr is 0.0, expected more than 0", lambda w: w.train(lr=0)),
    ("--epochs 0", "--epochs is 0, expected more than 0", lambda w: w.train(epochs=0)),
    ("--hidden 0", "hidden is 0, expected at least 1", lambda w: w.train(hidden=0)),
    ("--batch-size 0", "--batch-size is 0", lambda w: w.train(batch_size=0)),
    ("--memory nan", "--memory is nan", lambda w: w.train(memory="nan")),
    ("--order-seed -1", "--order-seed is -1", lambda w: w.train(order_seed=-1)),
    ("--weight-decay -1", "--weight-decay is -1", lambda w: w.train(weight_decay=-1)),
    ("--device", "device 'abacus' cannot be used", lambda w: w.train(device="abacus")),
    ("--out is a file", "cannot be written", lambda w: w.train(out=w.write("file", ""))),
    ("--layers beyond a later store", "names layer 1, but the store's encoder has layers 2-3",
     lambda w: [*w.train(layers="1"), "--store", w.smaller(layers="2")]),
    ("--out in no folder", "make the folder", lambda w: w.predict("the river", out=w.folder / "none" / "x.jsonl")),
    ("heads from a mean", "holds attention 'mean', the network wants 'heads'", lambda w: w.train(attention="heads")),
]  # fmt: skip
STORES: list[Case] = [
    ("no store", "no store at", lambda w: w.train(w.folder / "none")),
    ("no store in a folder", "no finished store in", lambda w: w.train(w.write("empty/file", "").parent)),
    ("train from a file", "no finished store in", lambda w: w.train(w.write("file", ""))),
    ("only unfinished stores", "go on with those that were begun", lambda w: w.train(w.unsealed().parent)),
    ("not sealed", "words.toml --store", lambda w: w.train(w.unsealed())),
    ("newer schema", "newer than this code's 2: update", lambda w: w.train(w.manifest(schema_version=99))),
    ("older schema", "older than this code's 2: extract", lambda w: w.train(w.manifest(schema_version=0))),
    ("extract over an older schema", "again, into another folder or after removing this one",
     lambda w: w.extract_words(w.manifest(schema_version=1))),
    ("over a newer schema", "newer than this code's 2", lambda w: w.extract_words(w.manifest(schema_version=3))),
    ("begun with an older schema", "plan.json has schema version 1, older than",
     lambda w: w.extract_words(replace(w.unsealed(), "plan.json", b'{"schema_version": 1}'))),
    ("schema version no number", "manifest.json is damaged", lambda w: w.train(w.manifest(schema_version="one"))),
    ("manifest cut", "manifest.json is damaged", lambda w: w.train(w.store("manifest.json", cut))),
    ("manifest not UTF-8", "manifest.json is damaged", lambda w: w.train(w.store("manifest.json", lambda _: b"\xff{"))),
    ("manifest with a list", "manifest.json is damaged", lambda w: w.train(w.manifest(splits=[]))),
    ("manifest with too much", "manifest.json is damaged", lambda w: w.train(w.manifest(colour="red"))),
    ("a split gone", "validation is missing", lambda w: w.train(w.store_without("arrays.zarr/validation"))),
    ("an array gone", "train/encoder/hidden, part 0 is missing", lambda w: w.train(w.store_without(ARRAY))),
    ("all arrays gone", "arrays.zarr cannot be opened", lambda w: w.train(w.store_without("arrays.zarr"))),
    *(
        (f"{array} {how}", says, lambda w, name=name, change=change: w.train(w.store(name, change)))
        for name, array, says in (
            (CHUNK, "chunk", "train/encoder/hidden"),
            (HEAD, "head", "head/weight"),
            (PLAN, "plan", "validation/length"),
        )
        for how, change in (("truncated", cut), ("missing", None), ("with a flipped bit", flipped))
    ),
    ("arrays without a manifest", "lies there without plan.json or manifest.json",
     lambda w: w.extract_words(w.store("manifest.json", None))),
]  # fmt: skip
NETWORKS: list[Case] = [
    ("nothing to evaluate", "give --network FOLDER, or --baselines", lambda w: call("evaluate", store=w.sealed)),
    ("no network", "no network at", lambda w: w.evaluate(network=w.folder / "none")),
    ("evaluate on another backbone", "was trained for backbone", lambda w: w.evaluate(store=w.other_store)),
    ("evaluate on other labels", "texts, labels or metric are not", lambda w: w.evaluate(store=w.other_labels)),
    ("evaluate on fewer layers", "lacks 1: evaluate it on", lambda w: w.evaluate(store=w.smaller(layers="2"))),
    ("evaluate without attention", "with --attention mean", lambda w: w.evaluate(store=w.smaller(attention="none"))),
    ("a model for a network", "holds no network but a model", lambda w: w.evaluate(network=w.models["tied"])),
    ("no such split", "has no split 'dev'; it has:", lambda w: w.evaluate(split="dev")),
    ("evaluate on train", "evaluate on validation or test", lambda w: w.evaluate(split="train")),
    ("evaluate --batch-size 0", "--batch-size is 0", lambda w: w.evaluate(batch_size=0)),
    ("evaluate --memory 0", "--memory is 0", lambda w: w.evaluate(memory=0)),
    ("evaluate --device", "device 'abacus' cannot be used", lambda w: w.evaluate(device="abacus")),
    ("weights missing", "is damaged", lambda w: w.evaluate(network=w.network("model.safetensors", None))),
    ("weights cut", "is damaged", lambda w: w.evaluate(network=w.network("model.safetensors", b"\x10"))),
    ("config damaged", "is damaged", lambda w: w.evaluate(network=w.network("config.json", b'{"read": {}}'))),
    ("config of another shape", "is damaged", lambda w: w.evaluate(network=w.network("config.json", b"[]"))),
    ("predict with another backbone", "was trained for backbone",
     lambda w: w.predict("the river", model=w.models["untied"])),
    ("predict --revision", "--revision v9 is for a model of the hub", lambda w: w.predict("the river", revision="v9")),
    ("predict --batch-size 0", "'--batch-size'", lambda w: w.predict("the river", batch_size=0)),
    ("predict --device", "device 'abacus' cannot be used", lambda w: w.predict("the river", device="abacus")),
    ("wrong number of fields", "line 1 has 2 texts, task words needs 1 (sentence)", lambda w: w.predict("the\triver")),
    ("no JSON", "line 2 begins like a JSON object but is none", lambda w: w.predict("the river", '{"sentence"')),
    ("JSON without the field", "line 1 has no 'sentence'", lambda w: w.predict('{"text": "the river"}')),
    ("JSON with null", "line 1: 'sentence' is None", lambda w: w.predict('{"sentence": null}')),
    ("empty text", "line 1: the text is empty", lambda w: w.predict(" ")),
    ("no file", "cannot be read", lambda w: w.predict(file=w.folder / "none.txt")),
    ("file not UTF-8", "cannot be read", lambda w: w.predict(file=w.write("latin.txt", b"caf\xe9\n"))),
    ("texts and a file", "not both", lambda w: w.predict("the river", file=w.write("texts.txt", "a\n"))),
    ("inspect nothing", "no store at", lambda w: ["inspect", w.folder / "none"]),
    ("inspect a damaged network", "is damaged", lambda w: ["inspect", w.network("config.json", b"{}")]),
    ("results damaged", "results.jsonl", lambda w: w.train(out=w.write("done/results.jsonl", "{'a'}\n").parent)),
    ("checkpoint damaged", "checkpoint.safetensors is damaged",
     lambda w: w.train(out=w.write(f"run/{w.networks}/checkpoint.safetensors", "x").parents[1])),
]  # fmt: skip
ROOMS = {
    "model": MODELS, "task": TASKS, "rows": ROWS, "settings": SETTINGS, "store": STORES, "network": NETWORKS,
}  # fmt: skip
CASES = {f"{room}: {name}": case for room, cases in ROOMS.items() for name, *case in cases}
FINDINGS: list[tuple[str, str, str, Callable[[bytes], bytes] | None]] = [
    ("chunk truncated", CHUNK, f"{NAMED}: corrupt", cut),
    ("chunk missing", CHUNK, f"{NAMED}: missing", None),
    ("chunk with a flipped bit", CHUNK, f"{NAMED}: corrupt", flipped),
    ("array's metadata cut", f"{ARRAY}/zarr.json", "train/encoder/hidden", cut),
    ("head missing", HEAD, "head/weight", None),
    ("head with a flipped bit", HEAD, "head/weight", flipped),
    ("plan with a flipped bit", PLAN, "validation/length", flipped),
    ("plan missing", PLAN, "validation/length", None),
]


@pytest.fixture(scope="module")
def well(
    tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path], rows_folder: Path, words_store: Path
) -> World:
    """Everything that is well."""
    folder = tmp_path_factory.mktemp("well")
    task, rows = folder / "words.toml", rows_folder / "words"
    task.write_text((rows_folder / "words.toml").read_text().replace('"no", ', '"nay", '))
    make_store(folder / "labels", models["tied"], str(task), rows, max_examples=4)
    make_store(folder / "other", models["untied"], str(rows_folder / "words.toml"), rows, max_examples=4)
    config = NetworkConfig(ReadConfig(hidden=4))
    result = train_store(StoreFolder(words_store), folder / "runs", [config], TrainConfig(epochs=1))[0]
    network = Path(result["folder"])
    return World(folder, models, rows_folder, words_store, folder / "other", folder / "labels", network)


@pytest.fixture
def world(well: World, tmp_path: Path) -> World:
    """Everything that is well, and a folder for what is not."""
    return dataclasses.replace(well, folder=tmp_path)


@pytest.mark.parametrize(("says", "arguments"), CASES.values(), ids=CASES)
def test_exits_with_one_message(
    says: str,
    arguments: Callable[[World], list[object]],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2 and the stated words on stderr; what was there is as it was, and nothing new looks whole."""
    words = arguments(world)
    before = contents(world.folder)
    code, out, err = run(words, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert says in err
    assert sum(line.startswith(("error: ", "Usage: ")) for line in err.splitlines()) == 1
    after = contents(world.folder)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in set(after) - set(before) if name.rpartition("/")[2] in WHOLE]


@pytest.mark.parametrize(
    ("name", "says", "change"), [case[1:] for case in FINDINGS], ids=[case[0] for case in FINDINGS]
)
def test_verify_names_the_chunk(
    name: str,
    says: str,
    change: Callable[[bytes], bytes] | None,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 1, the finding on stdout, and nothing changed."""
    store = world.store(name, change)
    before = contents(store)
    code, out, err = run(["verify", store], monkeypatch, capsys)
    assert code == 1
    assert says in out
    assert len(out.splitlines()) == 1
    assert "1 findings" in err
    assert contents(store) == before


@pytest.mark.parametrize(
    ("says", "options"),
    [("neither bundled, nor a local folder", {"model": "t5-none"}), ("could not be loaded", {"dataset": "none/rows"})],
)
def test_what_only_the_hub_could_have(says: str, options: dict[str, str], world: World) -> None:
    """A name that is nothing here, without a network: the same one message, from a process of its own."""
    done = run_cli(*world.extract(**options), HF_DATASETS_OFFLINE="1")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not world.out.exists()
