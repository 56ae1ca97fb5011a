"""Predictions: in the order of the lines, as evaluated, in bounded memory; labels, scores and text."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import read_cache
from read_cache.config import PredictConfig
from read_cache.errors import UserError
from read_cache.live.predict import Line, Predictor
from read_cache.methods.adapter import AdapterConfig
from read_cache.methods.base import LiveMethod, build_method
from read_cache.methods.batches import TokenBatches
from read_cache.methods.run import method_head, store_backbone
from read_cache.methods.saved import save_method
from read_cache.networks.saved import TrainedNetwork, find_networks, save_network
from read_cache.scoring.evaluator import score_batch
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from support.backbones import bert_folder
from support.live import load_for, make_stores, network_of, saved_weights, stored_predictions, tokens

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("read", {}), ("read_matching", {"matching": 4}), ("ladder", {"reduction": 2}), ("probe", {})
]  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    names = "words", "scores", "open", "bf16", "int8", "rank8", "bert", "bert-pairs", "bert-bf16", "bert-int8"
    return make_stores(tmp_path_factory.mktemp("predict"), rows_folder, *names)


@pytest.fixture(scope="module")
def lines(rows_folder) -> list[Line]:
    """The test split's rows."""
    return list(enumerate(map(json.loads, (rows_folder / "words" / "test.jsonl").read_text().splitlines()), start=1))


def save(folder: Path, store: StoreReader, *kinds: tuple[str, dict[str, Any]]) -> list[TrainedNetwork]:
    """Save networks of some kinds for a store."""
    networks = [network_of(store, kind, **settings) for kind, settings in kinds]
    for one in networks:
        save_network(folder / one.record.name, one.record, saved_weights(one), one.calibration)
    return networks


@pytest.fixture(scope="module")
def run(tmp_path_factory, stores) -> Path:
    """Networks of every kind of the `words` task in bf16."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, stores["bf16"], *NETWORKS)
    return folder


@pytest.fixture(scope="module")
def predictor(run, models) -> Predictor:
    """Batches of two, two of which are looked at together."""
    return Predictor(str(models["tied"]), find_networks([run]), PredictConfig(batch_size=2, look_ahead=2))


def test_predictions_come_in_order_whatever_shares_a_batch(predictor, lines) -> None:
    found = list(predictor.predict(lines))
    assert [of_line[0].line for of_line in found] == [number for number, _ in lines]
    lengths = [len(of_line[0].text) for of_line in found]
    assert lengths != sorted(lengths, reverse=True), "or nothing was put back in order"
    for of_line, (_, source) in zip(found, lines, strict=True):
        assert of_line[0].text == f"words: {source['sentence']}"
        assert tuple(one.network for one in of_line) == predictor.names
        (alone,) = predictor.predict([(1, source)])
        for together, one in zip(of_line, alone, strict=True):
            assert together.probabilities == pytest.approx(one.probabilities, abs=0.05)


@pytest.mark.parametrize("name", ["words", "scores", "bf16", "int8", "rank8", "bert", "bert-pairs", "bert-int8"])
def test_predictions_score_what_evaluation_reports(tmp_path, stores, rows_folder, name) -> None:
    """The values that evaluation compares with the gold ones, for each kind of network."""
    store = stores[name]
    networks = {one.record.name: one for one in save(tmp_path, store, *NETWORKS)}
    rows = rows_folder / ("words" if store.manifest.task.name == "words" else "scores") / "test.jsonl"
    lines = list(enumerate(map(json.loads, rows.read_text().splitlines()), start=1))
    predictor = Predictor(store.manifest.backbone.name, find_networks([tmp_path]))
    found = list(predictor.predict(lines))
    for index, network in enumerate(predictor.names):
        predicted, expected = stored_predictions(store, networks[network])
        own = [of_line[index] for of_line in found]
        exact = store.manifest.activations.compute_dtype == "fp32"
        if store.manifest.task.scores and expected.ndim == 1:
            assert [one.value for one in own] == pytest.approx(predicted.tolist(), abs=1e-3)
        else:
            values = [
                one.value if one.value is not None else store.manifest.task.labels.index(one.label) for one in own
            ]
            shares = expected.sort(descending=True).values
            clear = (shares[:, 0] - shares[:, 1]) > (1e-3 if exact else 0.05)
            assert clear.any()
            assert torch.tensor(values)[clear].tolist() == pytest.approx(predicted[clear].tolist(), abs=1e-5)


def test_a_pair_is_read_as_its_backbone_reads_it(tmp_path, stores, rows_folder) -> None:
    row = json.loads((rows_folder / "scores" / "test.jsonl").read_text().splitlines()[0])
    pair = row["sentence1"], row["sentence2"]
    for name, text in (("bert-pairs", "\t".join(pair)), ("scores", f"one: {pair[0]} two: {pair[1]}")):
        save(tmp_path / name, stores[name], ("read", {}))
        predictor = Predictor(stores[name].manifest.backbone.name, find_networks([tmp_path / name]))
        lines = [(1, row), (2, "\t".join(pair))]
        (one,), (other,) = predictor.predict(lines)
        assert (one.text, other.text) == (text, text)
        assert one.value == pytest.approx(other.value, abs=1e-4)
        assert 0 <= one.value <= 5
        assert bool(one.probabilities) == (name == "scores")
        assert min(predictor.task.labels, key=lambda label: abs(float(label) - one.value)) == one.label


def test_an_open_target_is_generated(tmp_path, stores, rows_folder, models) -> None:
    store = stores["open"]
    networks = save(tmp_path, store, *NETWORKS[:3])
    texts = ["the old river runs", "people live", "a quiet town where many people live and work"]
    settings = {"batch_size": 2, "max_new_tokens": 5}
    predictor = Predictor(str(models["tied"]), find_networks([tmp_path]), PredictConfig(**settings))
    found = list(predictor.predict(enumerate(texts, start=1)))
    attached = read_cache.attach(load_for(store), {one.record.name: one for one in networks})
    tokenizer = attached.backbone.tokenizer
    for of_line, text in zip(found, texts, strict=True):
        batch = tokens(models["tied"], [f"words: {text}"])
        for one in of_line:
            ids = attached.generate(**batch, network=one.network, max_new_tokens=5, do_sample=False, num_beams=1)
            assert one.label == tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
            assert (one.probabilities, one.value) == ({}, None)
    assert len({one.label for of_line in found for one in of_line}) > 3


def save_adapter(folder: Path, store: StoreReader, spread: float) -> LiveMethod:
    """Save adapters with random weights of this deviation for a store; 0 leaves the backbone as it is."""
    method = build_method("adapter", AdapterConfig(bottleneck=4), store_backbone(store.manifest), seed=1)
    for adapter in method.module.adapters:
        torch.nn.init.normal_(adapter.up.weight, std=spread, generator=torch.Generator().manual_seed(1))
    settings = {"kind": "adapter", "name": f"adapter-{spread}", "config": method.config.values()}
    record = network_of(store).record.replaced(**settings, compute_dtype="fp32")
    save_method(folder / record.name, method, {}, record)
    return method.eval()


@pytest.mark.parametrize("name", ["words", "bf16"])
def test_live_methods_and_networks_predict_together(tmp_path, stores, lines, name) -> None:
    store = stores[name]
    save(tmp_path, store, NETWORKS[0])
    method, _ = (save_adapter(tmp_path, store, spread) for spread in (30.0, 0.0))
    folders = find_networks([tmp_path], live=True)
    found = list(Predictor(store.manifest.backbone.name, folders, PredictConfig(batch_size=4)).predict(lines))
    assert [one.network for one in found[0]] == ["adapter-0.0", "adapter-30.0", "read-gru"]
    head, order = method_head(HeadSettings(), store, method), store.split("test").plan["example_id"].argsort()
    batches = TokenBatches(store, "test", method.backbone, batch_size=4)
    expected = score_batch(method, head, batches.batch(order)).probabilities
    own = torch.tensor([list(of_line[1].probabilities.values()) for of_line in found])
    assert torch.allclose(own, expected, atol=1e-5)
    assert not torch.allclose(
        own, torch.tensor([list(of_line[0].probabilities.values()) for of_line in found]), atol=0.01
    )
    with pytest.raises(UserError, match=r"adapter-30\.0 holds a live method"):
        find_networks([tmp_path / "adapter-30.0"])
    assert find_networks([tmp_path]) == [tmp_path / "read-gru"]
    (tmp_path / "adapter-30.0" / "method.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter-30\.0 is damaged.*backbone"):
        Predictor(store.manifest.backbone.name, [tmp_path / "adapter-30.0"])


def test_a_live_method_generates(tmp_path, stores, models) -> None:
    """Without an effect as the backbone does, otherwise not; of another backbone it is refused."""
    for spread in (0.0, 30.0):
        save_adapter(tmp_path, stores["open"], spread)
    texts = ["the old river runs", "people live"]
    folders = find_networks([tmp_path], live=True)
    predictor = Predictor(str(models["tied"]), folders, PredictConfig(max_new_tokens=5))
    found = list(predictor.predict(enumerate(texts, start=1)))
    batch = tokens(models["tied"], [f"words: {text}" for text in texts])
    ids = load_for(stores["open"]).generate(**batch, max_new_tokens=5, do_sample=False)
    plain = AutoTokenizer.from_pretrained(models["tied"]).batch_decode(ids, skip_special_tokens=True)
    assert [of_text[0].label for of_text in found] == plain != [of_text[1].label for of_text in found]
    with pytest.raises(UserError, match="was trained for backbone"):
        Predictor(str(models["untied"]), [tmp_path / "adapter-0.0"])


def test_texts_and_tables_from_python(tmp_path, stores) -> None:
    store = stores["bert"]
    save(tmp_path, store, ("read", {}), ("probe", {}))
    texts = ["the old river", "people live", {"sentence": "a quiet town", "id": 3}]
    found = read_cache.predict(store.manifest.backbone.name, tmp_path, texts, batch_size=2, look_ahead=1)
    assert [(one["line"], one["network"]) for one in found] == [
        (line, name) for line in (1, 2, 3) for name in ("probe-", "read-gru")
    ]
    assert found[4]["text"] == "a quiet town"
    assert list(found.frame["label"]) == [one["label"] for one in found]
    assert "a quiet town" in found._repr_html_()
    for texts, message in (
        ("a river", "list of texts"),
        ([{"text": "a"}], "line 1.*'sentence'"),
        ([" "], "line 1"),
        ([3], "line 1 is 3"),
    ):
        with pytest.raises(UserError, match=message):
            read_cache.predict(store.manifest.backbone.name, tmp_path, texts)
    with pytest.raises(UserError, match="batch_size"):
        read_cache.predict(store.manifest.backbone.name, tmp_path, ["a"], batch_size=0)


def test_no_more_lines_are_read_than_are_looked_at_together(predictor, lines) -> None:
    """A file without end is predicted as far as anyone asks."""
    read = 0

    def endless():
        nonlocal read
        for read, (_, source) in enumerate(itertools.cycle(lines), start=1):
            yield read, source

    for done, _ in enumerate(itertools.islice(predictor.predict(endless()), 21), start=1):
        assert done <= read <= -(-done // 4) * 4


def test_networks_of_unlike_tasks_share_no_pass(tmp_path, stores) -> None:
    for name in ("bert", "bert-pairs"):
        save(tmp_path / name, stores[name], ("probe", {}))
    with pytest.raises(UserError, match=r"probe- \(words\) and probe- \(pairs\) read different inputs"):
        Predictor(str(bert_folder("bert")), find_networks([tmp_path]))
    with pytest.raises(UserError, match="no network to predict with"):
        Predictor(str(bert_folder("bert")), [])


def test_networks_of_one_name_are_told_apart_by_their_folders(tmp_path, run, models, stores) -> None:
    for place in ("one/twin", "two/twin", "two/other"):
        save(tmp_path / place, stores["bf16"], NETWORKS[0])
    folders = find_networks([run, tmp_path])
    names = Predictor(str(models["tied"]), folders).names
    assert sorted(name for name in names if "/" not in name) == ["ladder-", "probe-", "read_matching-gru"]
    twins = [str(tmp_path / place / "twin/read-gru") for place in ("one", "two")]
    assert [name for name in names if "/" in name] == [f"{run.name}/read-gru", twins[0], "other/read-gru", twins[1]]


def test_texts_over_the_limit_are_cut_and_counted(tmp_path, stores) -> None:
    (one,) = save(tmp_path, stores["bert"], ("read", {}))
    predictor = Predictor(str(bert_folder("bert")), find_networks([tmp_path]))
    assert predictor.max_source_length == one.record.max_source_length == 60
    found = list(predictor.predict([(1, "a river " * 200), (2, "a river"), (3, "a river " * 300)]))
    assert predictor.cut == 2
    assert dataclasses.replace(found[0][0], line=0, text="") == dataclasses.replace(found[2][0], line=0, text="")
