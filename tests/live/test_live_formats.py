"""Networks that see the same format share its batch; nothing is computed that no network reads."""

import pytest
import torch

import read_cache
from read_cache.errors import UserError
from read_cache.store.reader import StoreReader
from support.live import load, load_for, make_stores, network_of, tokens


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder) -> dict[str, StoreReader]:
    return make_stores(tmp_path_factory.mktemp("formats"), rows_folder, "words", "int8", "bert")


def test_networks_of_one_format_share_its_batch(stores, models) -> None:
    seen: list[object] = []
    networks = {str(number): network_of(stores["words"]) for number in range(3)}
    for one in networks.values():
        one.network.register_forward_pre_hook(lambda _, given: seen.append(given[0].stacks["encoder"]))
    read_cache.attach(load(models["tied"]), networks)(**tokens(models["tied"]))
    assert len(seen) == 3
    assert all(one is seen[0] for one in seen)
    inputs = [value for value in seen[0].shared.values() if not isinstance(value, torch.Tensor)]  # type: ignore[attr-defined]
    assert len(inputs) == 1, "states are standardised once for equal statistics"


def test_attention_weights_are_computed_only_where_a_network_reads_them(stores, models) -> None:
    model = load(models["tied"])
    asked: list[bool | None] = []
    model.encoder.register_forward_pre_hook(
        lambda _, given, options: asked.append(options.get("output_attentions")), with_kwargs=True
    )
    networks = {"ladder": network_of(stores["words"], "ladder", reduction=2), "read": network_of(stores["words"])}
    for names in (["ladder"], ["read"]):
        attached = read_cache.attach(model, {name: networks[name] for name in names})
        attached(**tokens(models["tied"]))
    assert [value for value in asked if value is not None] == [False, True]


@pytest.mark.parametrize("name", ["int8", "bert"])
def test_raw_states_are_made_only_for_networks_that_read_them(stores, name) -> None:
    model = load_for(stores[name])
    batches: dict[str, object] = {}
    networks = {"ladder": network_of(stores[name], "ladder", reduction=2), "read": network_of(stores[name])}
    for kind, one in networks.items():
        one.network.register_forward_pre_hook(lambda _, given, kind=kind: batches.update({kind: given[0]}))
        read_cache.attach(model, {kind: one})(torch.tensor([[5, 6, 7]]))
    ladder, read = (batches[kind].stacks["encoder"] for kind in ("ladder", "read"))  # type: ignore[attr-defined]
    assert (ladder.norm_weight is None) == (name == "bert"), "a BERT has no final norm"
    assert read.norm_weight is None
    assert (ladder.self_attention, read.self_attention is None) == (None, False)


@pytest.mark.parametrize("name", ["words", "bert"])
def test_states_that_are_not_finite_are_refused(stores, name) -> None:
    attached = read_cache.attach(load_for(stores[name]), {"mine": network_of(stores[name])})
    with torch.no_grad():
        attached.backbone.module.get_input_embeddings().weight[5] = float("inf")
    with pytest.raises(UserError, match=r"encoder hidden states are not finite at layer 0.*float32"):
        attached(torch.tensor([[5, 6]]))
