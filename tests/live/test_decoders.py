"""Networks beside decoder-only backbones: labels, padding, generation and the command's way."""

import json

import pytest
import torch
from transformers import AutoTokenizer

import read_cache
from read_cache.backbones import StackTokens
from read_cache.errors import UserError
from read_cache.live.inputs import padded_left
from read_cache.scoring.heads import HeadSettings
from support.backbones import DECODERS, decoder_folder
from support.live import FP32_NOISE, load, network_of, stored_predictions
from support.processes import run
from support.stores import make_store

NETWORKS = {
    "read": ("read", {}),
    "unjoined": ("read", {"attention": "none"}),
    "ladder": ("ladder", {"reduction": 2}),
    "side_tuning": ("side_tuning", {"reduction": 2}),
    "probe": ("probe", {}),
}
FIRST = HeadSettings(pooling="first")


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder):
    """fp32 stores by kind of backbone and task, made on first use."""
    made = {}

    def store(kind, task="words"):
        if (kind, task) not in made:
            made[kind, task] = make_store(
                tmp_path_factory.mktemp("decoders"), decoder_folder(kind), str(rows_folder / f"{task}.toml"),
                rows_folder / "words", dtype="fp32",
            )  # fmt: skip
        return made[kind, task]

    return store


def networks_of(store, kind):
    names = [name for name in NETWORKS if (name, kind) != ("ladder", "gpt2")]
    return {name: network_of(store, NETWORKS[name][0], head=FIRST, **NETWORKS[name][1]) for name in names}


@pytest.mark.parametrize("kind", DECODERS)
def test_labels_beside_the_backbone_are_those_from_the_store(stores, kind, rows_folder) -> None:
    store = stores(kind)
    networks = networks_of(store, kind)
    rows = [json.loads(line) for line in (rows_folder / "words" / "test.jsonl").read_text().splitlines()]
    found = read_cache.attach(load(decoder_folder(kind)), networks).classify(rows, batch_size=4)
    for name, trained in networks.items():
        _, stored = stored_predictions(store, trained)
        live = torch.tensor([list(one.probabilities.values()) for one in found[name]])
        torch.testing.assert_close(live, stored, atol=FP32_NOISE, rtol=1e-3)
        assert stored.std(0).max() > 1e-3


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_padding_on_either_side_gives_the_same_states(stores, kind) -> None:
    networks = networks_of(stores(kind), kind)
    attached = read_cache.attach(load(decoder_folder(kind)), networks)
    tokenizer = AutoTokenizer.from_pretrained(decoder_folder(kind))
    batch = tokenizer(["words: the old river", "words: no"], padding=True, padding_side="right", return_tensors="pt")
    left = padded_left(StackTokens(batch["input_ids"], batch["attention_mask"].bool()))
    assert not left.mask[1, 0]
    right, other = attached(batch["input_ids"], batch["attention_mask"]), attached(left.ids, left.mask)
    for name in networks:
        states = right[name][batch["attention_mask"].bool()]
        torch.testing.assert_close(states, other[name][left.mask], atol=10 * FP32_NOISE, rtol=1e-3)
    with pytest.raises(UserError, match="one stack"):
        attached(batch["input_ids"], decoder_input_ids=batch["input_ids"])
    y = attached(batch["input_ids"], batch["attention_mask"])["read"]
    assert y.shape == (*batch["input_ids"].shape, 32)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}])
def test_an_untrained_network_generates_as_the_backbone_does(stores, kind, options) -> None:
    model = load(decoder_folder(kind))
    tokenizer = AutoTokenizer.from_pretrained(decoder_folder(kind))
    batch = dict(tokenizer(["words: the old", "words: a"], padding=True, padding_side="left", return_tensors="pt"))
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    attached = read_cache.attach(model, {"mine": network_of(stores(kind, "open"), trained=False)})
    own = model.generate(**batch, max_new_tokens=6, **options)
    assert own.shape[1] > batch["input_ids"].shape[1]
    assert torch.equal(attached.generate(**batch, network="mine", max_new_tokens=6, **options), own)


@pytest.mark.parametrize("network", ["read", "unjoined", "ladder"])
def test_greedy_generation_follows_the_corrected_logits(stores, network) -> None:
    """With a left-padded batch, with and without the cache: each token is the best of the logits over its prefix."""
    store, model = stores("llama", "open"), load(decoder_folder("llama"))
    kind, settings = NETWORKS[network]
    attached = read_cache.attach(model, {"mine": network_of(store, kind, **settings)})
    tokenizer = AutoTokenizer.from_pretrained(decoder_folder("llama"))
    batch = dict(tokenizer(["words: the old", "words: a"], padding=True, padding_side="left", return_tensors="pt"))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for cached in (True, False):
        found = attached.generate(ids, mask, network="mine", max_new_tokens=5, use_cache=cached, eos_token_id=None)
        assert not torch.equal(found, model.generate(ids, attention_mask=mask, max_new_tokens=5, eos_token_id=None))
        for row in range(len(ids)):
            own = found[row][mask[row].argmax() :]
            logits = attached.logits(attached(own[None])["mine"])[0]
            prompt = int(mask[row].sum())
            for place in range(prompt, len(own)):
                best = logits[place - 1]
                assert best[own[place]] >= best.max() - 1e-3


def test_train_and_predict_from_python(tmp_path, rows_folder, monkeypatch, capsys) -> None:
    store = read_cache.extract(
        str(decoder_folder("qwen2")), str(rows_folder / "words.toml"), dataset=str(rows_folder / "words"),
        store=tmp_path / "store",
    )  # fmt: skip
    results = read_cache.train(store, tmp_path / "run", network="read", hidden=8, epochs=2, cell="rnn")
    table = read_cache.predict(str(decoder_folder("qwen2")), results.best.folder, ["the old river"])
    assert table[0]["text"] == "words: the old river"
    assert sum(table[0]["probabilities"].values()) == pytest.approx(1)
    prompted = tmp_path / "prompted.toml"
    prompted.write_text(
        (rows_folder / "words.toml").read_text() + 'prompt = "{sentence}\\nAnswer:"\nwords = ["a", "b", "c"]\n'
    )
    again = read_cache.extract(
        str(decoder_folder("qwen2")), str(prompted), dataset=str(rows_folder / "words"), store=tmp_path / "prompted"
    )
    assert again.manifest.label_ids != store.manifest.label_ids
    network = read_cache.train(again, tmp_path / "other", network="read", hidden=8, epochs=1).best.folder
    code, out, _ = run(
        ["predict", "--model", decoder_folder("qwen2"), "--network", network, "old"], monkeypatch, capsys
    )
    assert (code, out.splitlines()[0].split("\t")[-1], len(out.splitlines())) == (0, "old Answer:", 1)
    with pytest.raises(UserError, match="pooling"):
        read_cache.train(store, tmp_path / "run", network="probe", epochs=1)
