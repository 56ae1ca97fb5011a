"""Networks beside a live backbone: the backbone's own outputs before training, and the store's afterwards."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

import read_cache
from beside import BF16_NOISE, FP32_NOISE, STORES, TEXTS, load, make_stores, network_of, tokens
from conftest import KINDS, make_store
from read_cache.errors import UserError
from read_cache.live.attached import Attached
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.networks.config import ReadConfig
from read_cache.networks.saved import save_network
from read_cache.scoring.heads import Head
from read_cache.store.reader import StoreReader


def stored_probabilities(store: StoreReader, network: torch.nn.Module) -> torch.Tensor:
    """[examples, labels] of the test split, from the store alone, in the order of its rows."""
    split, head, found = store.split("test"), Head.of(store), []
    with torch.inference_mode():
        for batch in SplitBatches(split, make_collator(store), 4).in_order():
            found.append(head.scores(network(batch), batch).probabilities)
    order = torch.from_numpy(split.plan["example_id"]).argsort()
    return torch.cat(found)[order]


@pytest.fixture(scope="module")
def stores(tmp_path_factory, models, rows_folder) -> dict[str, StoreReader]:
    """Stores of one backbone: two tasks, an open target, and every form."""
    return make_stores(tmp_path_factory.mktemp("attach"), models, rows_folder, *STORES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untrained_network_gives_the_backbones_own_outputs_exactly(
    tmp_path, models, rows_folder, kind, dtype
) -> None:
    form = "fp32" if dtype == torch.float32 else "bf16"
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    store = make_store(tmp_path / "s", models[kind], *words, dtype=form)
    model = load(models[kind], dtype)
    attached = read_cache.attach(model, [network_of(store, ReadConfig(hidden=8), trained=False)])
    batch, decoder = tokens(models[kind]), torch.tensor([[0, 5, 9, 3]]).repeat(3, 1)
    (y,) = attached(**batch, decoder_input_ids=decoder).values()
    with torch.inference_mode():
        own = model(**batch, decoder_input_ids=decoder, use_cache=False, output_hidden_states=True)
    assert torch.equal(y, own.decoder_hidden_states[-1].float())
    assert torch.equal(attached.logits(y), own.logits)


@pytest.mark.parametrize("form", ["words", "heads", "layers", "scores", "bf16", "int8", "rank8"])
def test_labels_are_as_probable_as_the_store_says(stores, models, rows_folder, form) -> None:
    store = stores[form]
    config = ReadConfig("gru", 8, attention=store.manifest.form.attention, matching=8)
    trained = network_of(store, config)
    expected = stored_probabilities(store, trained.network)
    dtype = torch.bfloat16 if store.manifest.compute_dtype == "bf16" else torch.float32
    attached = read_cache.attach(load(models["tied"], dtype), {"mine": trained})
    folder = rows_folder / ("scores" if form == "scores" else "words")
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    found = attached.classify(rows)["mine"]
    shares = torch.tensor([list(one.probabilities.values()) for one in found])
    noise = FP32_NOISE if dtype == torch.float32 else BF16_NOISE
    torch.testing.assert_close(shares, expected, atol=noise, rtol=0)
    assert expected.std(0).max() > 10 * FP32_NOISE


def test_states_over_a_decoders_prefix_are_those_of_the_store(stores, models) -> None:
    """A target without a label set: the store holds the states along it."""
    store = stores["open"]
    trained = network_of(store, ReadConfig("lstm", 8))
    split = store.split("validation")
    attached = read_cache.attach(load(models["tied"]), {"mine": trained})
    order = iter(range(split.examples))
    for batch in SplitBatches(split, make_collator(store), 4).in_order():
        with torch.inference_mode():
            expected = trained.network(batch)
        for stored in expected:
            row = next(order)
            ids = split.plan["input_ids"][split.plan["token_offset"][row] :][: split.plan["length"][row]]
            path = split.plan["node_token"][split.plan["node_offset"][row] :][: split.plan["nodes"][row]]
            found = attached(torch.from_numpy(ids)[None], None, torch.from_numpy(path)[None])["mine"][0]
            torch.testing.assert_close(found, stored[: len(path)], atol=FP32_NOISE, rtol=FP32_NOISE)


@pytest.mark.parametrize("form", ["words", "int8"])
def test_padding_on_either_side_changes_nothing(stores, models, form) -> None:
    store = stores[form]
    dtype = torch.float32 if form == "words" else torch.bfloat16
    attached = read_cache.attach(load(models["tied"], dtype), {"mine": network_of(store, ReadConfig("gru", 8))})
    batch = tokens(models["tied"])
    together = attached.label_probabilities(**batch)["mine"]
    alone = [
        attached.label_probabilities(ids[real.bool()][None])["mine"] for ids, real in zip(*batch.values(), strict=True)
    ]
    left = {name: values.flip(0, 1).flip(0) for name, values in batch.items()}
    for row, real in enumerate(batch["attention_mask"].sum(1).tolist()):
        left["input_ids"][row, -real:] = batch["input_ids"][row, :real]
    noise = FP32_NOISE if form == "words" else BF16_NOISE
    torch.testing.assert_close(together, torch.cat(alone), atol=noise, rtol=0)
    torch.testing.assert_close(together, attached.label_probabilities(**left)["mine"], atol=noise, rtol=0)


def test_networks_of_several_tasks_and_forms_share_one_pass(stores, models) -> None:
    model = load(models["tied"])
    networks = {
        "words": network_of(stores["words"], ReadConfig("gru", 8)),
        "wide": network_of(stores["words"], ReadConfig("rnn", 12, initial_state="zero")),
        "alone": network_of(stores["words"], ReadConfig("gru", 8, attention="none")),
        "heads": network_of(stores["heads"], ReadConfig("lstm", 8, attention="heads")),
        "layers": network_of(stores["layers"], ReadConfig("gru", 8)),
        "scores": network_of(stores["scores"], ReadConfig("gru", 8)),
        "open": network_of(stores["open"], ReadConfig("gru", 8)),
    }
    attached, batch = read_cache.attach(model, networks), tokens(models["tied"])
    passes: list[str] = []
    model.encoder.register_forward_hook(lambda *_: passes.append("encoder"))
    model.decoder.register_forward_hook(lambda *_: passes.append("decoder"))
    states, shares = attached(**batch), attached.label_probabilities(**batch)
    assert passes == ["encoder", "decoder"] * 2
    assert set(shares) == set(networks) - {"open"}
    assert shares["scores"].shape == (3, 26)
    for name, one in networks.items():
        alone = read_cache.attach(load(models["tied"]), {name: one})
        torch.testing.assert_close(alone(**batch)[name], states[name], atol=FP32_NOISE, rtol=FP32_NOISE)
        if name != "open":
            torch.testing.assert_close(alone.label_probabilities(**batch)[name], shares[name], atol=FP32_NOISE, rtol=0)
    assert len({tuple(y.flatten().tolist()) for y in states.values()}) == len(networks)
    passes.clear()
    classified = attached.classify(TEXTS, ["words", "wide", "heads"])
    assert passes == ["encoder", "decoder"]
    assert list(classified) == ["words", "wide", "heads"]


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_padding_may_be_on_either_side_and_its_mask_of_any_kind(stores, models, dtype) -> None:
    """Padding is not compared with: alike it would be, as it is one token many times."""
    trained = network_of(stores["words"], ReadConfig("gru", 8, matching=8))
    attached, batch = read_cache.attach(load(models["tied"]), {"mine": trained}), tokens(models["tied"])
    real = batch["attention_mask"].sum(1).tolist()
    rolled = {
        name: torch.stack([row.roll(len(row) - count) for row, count in zip(values, real, strict=True)])
        for name, values in batch.items()
    }
    assert min(real) < max(real)
    left = attached(rolled["input_ids"], rolled["attention_mask"].to(dtype))["mine"]
    torch.testing.assert_close(left, attached(**batch)["mine"], atol=FP32_NOISE, rtol=FP32_NOISE)


def test_rows_are_classified_in_batches_of_like_length_and_answered_in_their_order(stores, models) -> None:
    model = load(models["tied"])
    attached = read_cache.attach(model, {"mine": network_of(stores["words"], ReadConfig("gru", 8, matching=4))})
    alone = [attached.classify([text])["mine"][0] for text in TEXTS]
    seen: list[tuple[int, ...]] = []
    model.encoder.register_forward_hook(
        lambda module, given, options, out: seen.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    together = attached.classify(TEXTS, batch_size=2)["mine"]
    assert [rows for rows, _ in seen] == [2, 1]
    assert seen[0][1] > seen[1][1], "the shortest is not padded to the longest"
    for one, other in zip(alone, together, strict=True):
        assert one.label == other.label
        assert list(other.probabilities.values()) == pytest.approx(list(one.probabilities.values()), abs=FP32_NOISE)
    with pytest.raises(UserError, match="batch_size is 0"):
        attached.classify(TEXTS, batch_size=0)


def test_a_folder_of_networks_is_attached_by_task_and_name(tmp_path, stores, models) -> None:
    for form in ("words", "scores"):
        trained = network_of(stores[form], ReadConfig("gru", 8))
        save_network(tmp_path / form, trained.record, trained.network.state_dict())
    attached = read_cache.attach(load(models["tied"]), tmp_path)
    assert sorted(attached.networks) == ["sample-similarity/gru-mean", "words/gru-mean"]
    with pytest.raises(UserError, match="two networks are called words/gru-mean"):
        read_cache.attach(load(models["tied"]), [tmp_path / "words", tmp_path])


def test_importing_costs_nothing_and_networks_load_without_the_backbones_library(tmp_path, stores) -> None:
    trained = network_of(stores["int8"], ReadConfig("gru", 8))
    save_network(tmp_path, trained.record, trained.network.state_dict(), trained.calibration)
    program = (
        "import sys, read_cache\n"
        "assert not {'torch', 'transformers', 'zarr', 'numpy'} & set(sys.modules)\n"
        "sys.modules['transformers'] = sys.modules['datasets'] = None\n"
        "saved = [read_cache.load_network(sys.argv[1]) for again in range(2)][1]\n"
        "print(saved.record.name, saved.calibration is not None, 'read_cache.extract' in sys.modules)\n"
        "assert not hasattr(read_cache, 'nothing')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "gru-mean True False\n", done.stderr


def spoilt(model: torch.nn.Module) -> torch.nn.Module:
    """A backbone that was trained a little further."""
    with torch.no_grad():
        model.decoder.block[0].layer[0].SelfAttention.q.weight[0, 0] += 0.01
    return model


def adapted(model: torch.nn.Module) -> torch.nn.Module:
    """A backbone one of whose layers lies within another module, as adapters do it."""
    attention = model.encoder.block[0].layer[0].SelfAttention
    attention.q = torch.nn.Sequential(attention.q)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: load(m["untied"]), "was trained for backbone"),
        (lambda m: load(m["tied"], torch.bfloat16), "computed in fp32, but the backbone runs in bf16"),
        (lambda m: load(m["tied"], torch.float16), "load it in bfloat16 or float32"),
        (lambda m: load(m["tied"]).train(), "call backbone.eval"),
        (lambda m: spoilt(load(m["tied"])), "is not what"),
        (lambda m: adapted(load(m["tied"])), r"SelfAttention.q.0.weight is in no file of .* without adapters"),
        (lambda m: AutoModelForSeq2SeqLM.from_pretrained(m["tied"], attn_implementation="sdpa"), "gives no attention"),
        (lambda m: T5ForConditionalGeneration(load(m["tied"]).config).eval(), "is not what"),
        (lambda m: torch.nn.Linear(1, 1), "does not say where it was loaded from"),
    ],
)
def test_a_backbone_that_would_say_other_things_is_refused(stores, models, make, message) -> None:
    with pytest.raises(UserError, match=message):
        read_cache.attach(make(models), [network_of(stores["words"], ReadConfig(hidden=8))])


def test_bad_use_ends_in_one_message(stores, models) -> None:
    model, batch = load(models["tied"]), tokens(models["tied"])
    words, opened = (network_of(stores[name], ReadConfig(hidden=8)) for name in ("words", "open"))
    attached = read_cache.attach(model, {"words": words, "open": opened})
    only_open = read_cache.attach(model, {"open": opened})
    other = dataclasses.replace(words, record=dataclasses.replace(words.record, label_ids=((5, 1), (6, 1))))
    for call, message in (
        (lambda: attached.generate(**batch, network="nobody"), "no network 'nobody' is attached; there are: words"),
        (lambda: attached.classify(TEXTS, ["open"]), "open: open targets have no label set"),
        (lambda: only_open.label_probabilities(**batch), "open: open targets have no label set"),
        (lambda: attached.classify([]), "no rows"),
        (lambda: attached.classify("a river"), "takes a list of rows, found one row"),
        (lambda: attached.classify({"sentence": "a river"}), "takes a list of rows, found one row"),
        (lambda: attached.classify(TEXTS, "nobody"), "no network 'nobody' is attached"),
        (lambda: attached.classify([{"text": "a"}]), "row 0 is fields text, but task words needs a dict with sentence"),
        (lambda: attached.classify(["a river", "  "]), "row 1: the text is empty"),
        (lambda: read_cache.attach(model, []), "no network to attach"),
        (lambda: read_cache.attach(model, ["nowhere"]), "no network at nowhere"),
        (lambda: read_cache.attach(model, {"other": other}).classify(TEXTS), "other tokens of the labels"),
        (lambda: Attached(attached.backbone, {}), "no network to attach"),
    ):
        with pytest.raises(UserError, match=message):
            call()
