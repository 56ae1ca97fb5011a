"""Full fine-tuning: the store's own rows, targets and batches; it learns, goes on where it was, and is compared."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_store
from read_cache.bench import finetune as finetune_module
from read_cache.bench.comparison import comparison
from read_cache.bench.finetune import FinetuneConfig, finetune_store, load_backbone
from read_cache.bench.finetune_model import SplitRows, TunedBackbone
from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.loader.order import epoch_batches
from read_cache.networks.config import ReadConfig
from read_cache.scoring.baselines import last_states, untrained
from read_cache.store.reader import StoreReader
from read_cache.train.grid import NetworkConfig, TrainConfig
from read_cache.train.results import read_results
from read_cache.train.run import train_store

RUN = TrainConfig(epochs=2, batch_size=8, precision="fp32")


@pytest.fixture(scope="module", params=["words.toml", "stsb", "open.toml"])
def store(request, tmp_path_factory, models, rows_folder) -> StoreReader:
    """Exact stores of a task with a trie of several nodes, one with scores, and an open one."""
    name = "scores" if request.param == "stsb" else "words"
    task = rows_folder / "scores.toml" if request.param == "stsb" else rows_folder / request.param
    if request.param == "stsb":
        task.write_text(
            'template = "stsb {sentence1} {sentence2}"\nmetric = "pearson_spearman"\nscores = true\n'
            f"labels = {[f'{step / 5:.1f}' for step in range(26)]}\n"
        )
    path = tmp_path_factory.mktemp("stores") / name
    return make_store(path, models["tied"], str(task), rows_folder / name, dtype="fp32")


def test_before_training_it_says_what_the_store_says(store) -> None:
    tuned = TunedBackbone(load_backbone(store.manifest), store, dropout=0.1)
    for name in ("validation", "test"):
        rows = SplitRows(store, name)
        assert tuned.evaluate(rows).metric == pytest.approx(untrained(store, rows.split))
    batch = next(iter(last_states(store, rows.split).in_order()))
    with torch.inference_mode():
        states = tuned.final_states(rows.examples(np.arange(len(batch.final))))
    torch.testing.assert_close(states, batch.final, atol=1e-4, rtol=1e-4)


def test_an_epochs_batches_are_those_of_the_store(store) -> None:
    rows, split = SplitRows(store, "train"), store.split("train")
    layout = split.layout
    order = epoch_batches(layout.part_start, layout.length, RUN.batch_size, RUN.window, RUN.order_seed, 1)
    cached = SplitBatches(split, make_collator(store), RUN.batch_size, RUN.window)
    for numbers, batch in zip(order, cached.epoch(RUN.order_seed, 1), strict=True):
        live = rows.batch(numbers, batch.final)
        assert torch.equal(live.node_trie, batch.node_trie)
        assert torch.equal(live.node_target, batch.node_target)
        assert [len(example.input_ids) for example in rows.examples(numbers)] == batch.encoder.real.sum(1).tolist()


@pytest.fixture(scope="module")
def separable(tmp_path_factory, models) -> StoreReader:
    """One word of a row decides its label."""
    folder = tmp_path_factory.mktemp("separable")
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("validation", 16), ("test", 16)):
        rows = [
            {"text": " ".join(rng.permutation([*rng.choice(["river", "town", "sea"], 3), ("bad", "good")[label]]))}
            | {"label": int(label)}
            for label in rng.integers(2, size=count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.toml").write_text('template = "{text}"\nlabels = ["no", "yes"]\n')
    return make_store(folder / "store", models["untied"], str(folder / "task.toml"), folder)


def test_it_learns_and_its_best_rate_is_trained_with_every_seed(separable, tmp_path, monkeypatch, capsys) -> None:
    run = TrainConfig(epochs=6, batch_size=8)
    before = TunedBackbone(load_backbone(separable.manifest), separable, 0.0).evaluate(SplitRows(separable, "test"))
    finetune_store(separable, tmp_path, [1e-5, 3e-3], [5, 6], 0.0, run)
    results = read_results(tmp_path)
    assert [(r["learning_rate"], r["seed"]) for r in results] == [(1e-5, 5), (3e-3, 5), (3e-3, 6)]
    assert before.metric < 80 < 95 < results[1]["validation"]
    assert results[1]["test"] > 95
    assert results[1]["history"][-1]["train_loss"] < results[1]["history"][0]["train_loss"]
    assert {"epochs": 6, "batch_size": 8}.items() <= results[1]["run"].items()

    monkeypatch.setattr(finetune_module, "finetune", lambda *_: pytest.fail("trained again"))
    written = (tmp_path / "results.jsonl").read_bytes()
    finetune_store(separable, tmp_path, [1e-5, 3e-3], [5, 6], 0.0, run)
    assert (tmp_path / "results.jsonl").read_bytes() == written
    with pytest.raises(UserError, match=r"trained with other settings.*another --out"):
        finetune_store(separable, tmp_path, [1e-5, 3e-3], [5, 6], 0.0, RUN)


def test_the_comparison_takes_what_is_best_on_validation(separable, tmp_path, capsys) -> None:
    read, full = tmp_path / "read", tmp_path / "full"
    network = ReadConfig("rnn", 4)
    for halving, seeds in ((1, [0]), (0, [1])):  # as the search trains its final seeds
        networks = [NetworkConfig(network, 1e-3, seed) for seed in seeds]
        train_store(separable.folder, read, networks, TrainConfig(epochs=1, batch_size=8, halving=halving))
    full.mkdir()
    lines = [
        {
            **result,
            "network": f"full-lr{rate}-seed{seed}",
            "seed": seed,
            "learning_rate": rate,
            "validation": 10.0 + seed,
        }
        | {"test": test + 2.0 * seed}
        for result in read_results(read)[:1]
        for rate, seeds, test in ((0.1, (0, 1), 40.0), (0.2, (0,), 99.0))
        for seed in seeds
    ]
    (full / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    comparison(str(separable.folder.path), read, full)
    header, _, row, average = capsys.readouterr().out.splitlines()
    tests = [result["test"] for result in read_results(read)]
    by_column = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert by_column["READ"] == f"{np.mean(tests):.1f} ± {np.std(tests, ddof=1):.1f}"
    assert by_column["full fine-tuning"] == "41.0 ± 1.4"
    assert by_column["training rows"] == "64"
    assert float(by_column["majority class"]) >= 0
    assert "41.0 ± 1.4" in average


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": 0.0}, "--lr is 0.0"),
        ({"learning_rate": 0.1, "seed": -1}, "--seed is -1"),
        ({"learning_rate": 0.1, "dropout": 1.0}, "--dropout is 1.0"),
    ],
)
def test_bad_settings(settings, said) -> None:
    with pytest.raises(UserError, match=said):
        FinetuneConfig(**settings)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("words", [("finetune", "no-store", "--out", "run"), ("comparison", "no-store", "run", "run")])
def test_bad_input_ends_in_one_message(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*words])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"read_cache.bench.{words[0]}", run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: no store at no-store: make one with read-cache extract")


def test_another_backbone_is_refused(tmp_path, models, rows_folder) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(models["tied"]).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    store = make_store(tmp_path / "store", model, str(rows_folder / "words.toml"), rows_folder / "words")
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    with pytest.raises(UserError, match="not the one that the store of words was made with"):
        load_backbone(store.manifest)
