"""`generate` with a network beside the backbone."""

import pytest
import torch

import read_cache
from beside import BF16_NOISE, FP32_NOISE, load, make_stores, network_of, tokens
from read_cache.errors import UserError
from read_cache.networks.config import ReadConfig
from read_cache.store.reader import StoreReader


@pytest.fixture(scope="module")
def stores(tmp_path_factory, models, rows_folder) -> dict[str, StoreReader]:
    return make_stores(tmp_path_factory.mktemp("generation"), models, rows_folder, "open", "heads", "bf16", "int8")


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"use_cache": False}])
def test_generation_with_an_untrained_network_is_the_backbones(stores, models, options) -> None:
    model, batch = load(models["tied"]), tokens(models["tied"])
    attached = read_cache.attach(model, {"mine": network_of(stores["open"], ReadConfig("gru", 8), trained=False)})
    own = model.generate(**batch, max_new_tokens=8, **options)
    assert torch.equal(attached.generate(**batch, network="mine", max_new_tokens=8, **options), own)


def test_states_of_the_encoder_cannot_be_given(stores, models) -> None:
    model, batch = load(models["tied"]), tokens(models["tied"])
    attached = read_cache.attach(model, {"mine": network_of(stores["open"], ReadConfig("gru", 8), trained=False)})
    with pytest.raises(UserError, match="give input_ids, not encoder_outputs"):
        attached.generate(**batch, network="mine", encoder_outputs=model.encoder(**batch))


@pytest.mark.parametrize("form", ["open", "heads", "bf16", "int8"])
def test_greedy_generation_follows_the_corrected_logits(stores, models, form) -> None:
    """Each token is the best of the logits over the prefix, which other tests compare with the store."""
    store = stores[form]
    model = load(models["tied"], torch.float32 if form in ("open", "heads") else torch.bfloat16)
    trained = network_of(store, ReadConfig("gru", 8, attention=store.manifest.form.attention, residual=0.5, matching=8))
    attached, batch = read_cache.attach(model, {"mine": trained}), tokens(models["tied"])
    found = attached.generate(**batch, network="mine", max_new_tokens=6)
    logits = attached.logits(attached(**batch, decoder_input_ids=found[:, :-1])["mine"]).float()
    assert found.shape[1] > 3
    for row, told in zip(logits, found, strict=True):
        for best, token in zip(row, told[1:].tolist(), strict=True):
            assert best[token] >= best.max() - (
                FP32_NOISE if form in ("open", "heads") else BF16_NOISE * best.abs().max()
            )
            if token == 1:
                break
    assert not torch.equal(found, model.generate(**batch, max_new_tokens=6)), "and the hooks are gone again"


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 3}])
def test_each_token_is_decoded_once_and_what_is_generated_is_the_same(stores, models, options) -> None:
    model, batch = load(models["tied"]), tokens(models["tied"])
    attached = read_cache.attach(model, {"mine": network_of(stores["heads"], ReadConfig("gru", 8, attention="heads"))})
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


def test_guesses_that_are_taken_back_leave_no_trace(stores, models) -> None:
    """Prompt lookup guesses tokens and forgets the wrong ones: what is generated is what greedy search generates."""
    model, batch = load(models["tied"]), tokens(models["tied"])
    attached = read_cache.attach(model, {"mine": network_of(stores["heads"], ReadConfig("gru", 8, attention="heads"))})
    for ids, mask in zip(*batch.values(), strict=True):
        one = {"input_ids": ids[None], "attention_mask": mask[None], "network": "mine", "max_new_tokens": 12}
        greedy = attached.generate(**one)
        assert torch.equal(attached.generate(**one, prompt_lookup_num_tokens=4), greedy)


def test_beam_search_finds_what_the_corrected_model_thinks_likely(stores, models) -> None:
    """A sequence's score is the sum of its tokens' log-probabilities under the corrected logits."""
    model, batch = load(models["tied"]), tokens(models["tied"])
    attached = read_cache.attach(model, {"mine": network_of(stores["open"], ReadConfig("gru", 8))})
    options = {"num_beams": 4, "max_new_tokens": 5, "length_penalty": 0.0}
    found = attached.generate(**batch, network="mine", return_dict_in_generate=True, output_scores=True, **options)
    logp = attached.logits(attached(**batch, decoder_input_ids=found.sequences[:, :-1])["mine"]).log_softmax(-1)
    told = logp.gather(-1, found.sequences[:, 1:, None])[..., 0]
    ended = (found.sequences[:, 1:] == 1).cumsum(1) - (found.sequences[:, 1:] == 1).long()
    torch.testing.assert_close((told * (ended == 0)).sum(1), found.sequences_scores, atol=1e-3, rtol=1e-3)
