"""A model is attached only if its states are those that networks were trained on."""

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    T5ForConditionalGeneration,
)

import read_cache
from read_cache.errors import UserError
from read_cache.live.attach import adopt_model
from read_cache.store.reader import StoreReader
from support.backbones import BERT_KINDS, bert_folder
from support.live import load, load_for, make_stores, network_of
from support.tiny_t5 import KINDS


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    return make_stores(tmp_path_factory.mktemp("adopt"), rows_folder, "words", "bert")


def spoilt(model: torch.nn.Module) -> torch.nn.Module:
    """A T5 that was trained a little further."""
    with torch.no_grad():
        model.decoder.block[0].layer[0].SelfAttention.q.weight[0, 0] += 0.01
    return model


def adapted(model: torch.nn.Module) -> torch.nn.Module:
    """A T5 one of whose layers lies within another module, as adapters do it."""
    attention = model.encoder.block[0].layer[0].SelfAttention
    attention.q = torch.nn.Sequential(attention.q)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: load(m["untied"]), "was trained for backbone"),
        (lambda m: load(bert_folder("bert")), "was trained for backbone"),
        (lambda m: load(m["tied"], torch.bfloat16), "computed in fp32, but the backbone runs in bf16"),
        (lambda m: load(m["tied"], torch.float16), "load it in bfloat16 or float32"),
        (lambda m: load(m["tied"]).train(), "call backbone.eval"),
        (lambda m: spoilt(load(m["tied"])), r"decoder.block.0.layer.0.SelfAttention.q.weight differs"),
        (lambda m: adapted(load(m["tied"])), r"SelfAttention.q.*without adapters"),
        (lambda m: load(m["tied"]).encoder, "other names"),
        (lambda m: AutoModelForSeq2SeqLM.from_pretrained(m["tied"], attn_implementation="sdpa"), "'sdpa'"),
        (lambda m: T5ForConditionalGeneration(load(m["tied"]).config).eval(), "differs"),
        (lambda m: torch.nn.Linear(1, 1), "has no name_or_path"),
    ],
)
def test_a_backbone_of_other_states_is_refused(stores, models, make, message) -> None:
    with pytest.raises(UserError, match=message):
        read_cache.attach(make(models), [network_of(stores["words"])])


@pytest.mark.parametrize("kind", [*KINDS, *BERT_KINDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_is_taken_as_loaded(models, kind, dtype) -> None:
    model = load(bert_folder(kind) if kind in BERT_KINDS else models[kind], dtype)
    backbone = adopt_model(model)
    assert backbone.module is model
    assert backbone.dtype == ("fp32" if dtype == torch.float32 else "bf16")


@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModelForSequenceClassification])
def test_the_encoder_of_a_bert_with_a_head_is_taken(stores, auto, recwarn) -> None:
    model = auto.from_pretrained(bert_folder("bert"), attn_implementation="eager").eval()
    attached = read_cache.attach(model, {"mine": network_of(stores["bert"])})
    assert attached.backbone.module is model.bert
    plain = read_cache.attach(load_for(stores["bert"]), {"mine": network_of(stores["bert"])})
    assert attached.classify(["a quiet town"]) == plain.classify(["a quiet town"])
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[0] += 0.01
    with pytest.raises(UserError, match=r"encoder.layer.1.output.dense.bias differs"):
        read_cache.attach(model, {"mine": network_of(stores["bert"])})


def test_where_the_weights_came_from_can_be_given(stores, models) -> None:
    model = load(models["tied"])
    model.name_or_path = model.config.name_or_path = model.config._name_or_path = ""
    networks = [network_of(stores["words"])]
    with pytest.raises(UserError, match="has no name_or_path"):
        read_cache.attach(model, networks)
    assert read_cache.attach(model, networks, model=models["tied"]).backbone.module is model
    with pytest.raises(UserError, match="revision 'v1' is for a model of the hub"):
        read_cache.attach(model, networks, model=models["tied"], revision="v1")
