"""`generate` with a network beside the backbone."""

from typing import Any

import pytest
import torch

import read_cache
from read_cache.errors import UserError
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from support.backbones import bert_folder
from support.live import BF16_NOISE, FP32_NOISE, load, load_for, make_stores, network_of, tokens

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "read": ("read", {}),
    "unjoined": ("read", {"attention": "none"}),
    "matching": ("read_matching", {"residual": 0.5, "matching": 8}),
    "ladder": ("ladder", {"reduction": 2}),
    "layer_probe": ("layer_probe", {"hidden": 8}),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    names = "open", "heads", "bf16", "int8", "rank8", "bert"
    return make_stores(tmp_path_factory.mktemp("generation"), rows_folder, *names)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"use_cache": False}])
def test_generation_with_an_untrained_network_is_the_backbones(stores, models, options) -> None:
    model, batch = load(models["tied"]), tokens(models["tied"])
    attached = read_cache.attach(model, {"mine": network_of(stores["open"], trained=False)})
    own = model.generate(**batch, max_new_tokens=8, **options)
    assert torch.equal(attached.generate(**batch, network="mine", max_new_tokens=8, **options), own)


def test_what_cannot_generate_is_refused(stores, models) -> None:
    model, batch = load(models["tied"]), tokens(models["tied"])
    networks = {
        "mine": network_of(stores["open"]),
        "probe": network_of(stores["heads"], "probe"),
        "trainable": network_of(stores["heads"], head=HeadSettings(kind="trainable", pooling="first")),
    }
    attached = read_cache.attach(model, networks)
    for name in ("probe", "trainable"):
        with pytest.raises(UserError, match=f"{name} was trained with a head of its own"):
            attached.generate(**batch, network=name)
    with pytest.raises(UserError, match="give input_ids, not encoder_outputs"):
        attached.generate(**batch, network="mine", encoder_outputs=model.encoder(**batch))
    bert = read_cache.attach(load_for(stores["bert"]), {"mine": network_of(stores["bert"])})
    with pytest.raises(UserError, match="cannot generate"):
        bert.generate(tokens(bert_folder("bert"))["input_ids"], network="mine")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["open", "heads", "bf16", "int8", "rank8"])
def test_greedy_generation_follows_the_corrected_logits(stores, models, name, network) -> None:
    """Each token is the best of the logits over the prefix, which other tests compare with the store."""
    exact = name in ("open", "heads")
    model, (kind, settings) = load_for(stores[name]), NETWORKS[network]
    attached = read_cache.attach(model, {"mine": network_of(stores[name], kind, **settings)})
    batch = tokens(models["tied"])
    found = attached.generate(**batch, network="mine", max_new_tokens=6)
    logits = attached.logits(attached(**batch, decoder_input_ids=found[:, :-1])["mine"]).float()
    assert found.shape[1] > 3
    for row, generated in zip(logits, found, strict=True):
        for best, token in zip(row, generated[1:].tolist(), strict=True):
            assert best[token] >= best.max() - (FP32_NOISE if exact else BF16_NOISE * best.abs().max())
            if token == 1:
                break
    assert not torch.equal(found, model.generate(**batch, max_new_tokens=6)), "and the hooks are gone again"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 3}])
def test_each_token_is_decoded_once_and_what_is_generated_is_the_same(stores, models, options, network) -> None:
    model, batch, (kind, settings) = load(models["tied"]), tokens(models["tied"]), NETWORKS[network]
    attached = read_cache.attach(model, {"mine": network_of(stores["heads"], kind, **settings)})
    given: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    found = [
        attached.generate(**batch, network="mine", max_new_tokens=7, use_cache=cached, **options)
        for cached in (True, False)
    ]
    steps = len(given) // 2
    assert steps > 3
    assert given == [1] * steps + list(range(1, steps + 1))
    assert torch.equal(*found)


@pytest.mark.parametrize("network", NETWORKS)
def test_guesses_that_are_taken_back_leave_no_trace(stores, models, network) -> None:
    """Prompt lookup guesses tokens and forgets the wrong ones: what is generated is what greedy search generates."""
    model, batch, (kind, settings) = load(models["tied"]), tokens(models["tied"]), NETWORKS[network]
    attached = read_cache.attach(model, {"mine": network_of(stores["heads"], kind, **settings)})
    for ids, mask in zip(*batch.values(), strict=True):
        one = {"input_ids": ids[None], "attention_mask": mask[None], "network": "mine", "max_new_tokens": 12}
        greedy = attached.generate(**one)
        assert torch.equal(attached.generate(**one, prompt_lookup_num_tokens=4), greedy)


def test_beam_search_finds_what_the_corrected_model_thinks_likely(stores, models) -> None:
    """A sequence's score is the sum of its tokens' log-probabilities under the corrected logits."""
    model, batch = load(models["tied"]), tokens(models["tied"])
    attached = read_cache.attach(model, {"mine": network_of(stores["open"])})
    options = {"num_beams": 4, "max_new_tokens": 5, "length_penalty": 0.0}
    found = attached.generate(**batch, network="mine", return_dict_in_generate=True, output_scores=True, **options)
    logp = attached.logits(attached(**batch, decoder_input_ids=found.sequences[:, :-1])["mine"]).log_softmax(-1)
    shares = logp.gather(-1, found.sequences[:, 1:, None])[..., 0]
    ended = (found.sequences[:, 1:] == 1).cumsum(1) - (found.sequences[:, 1:] == 1).long()
    torch.testing.assert_close((shares * (ended == 0)).sum(1), found.sequences_scores, atol=1e-3, rtol=1e-3)
