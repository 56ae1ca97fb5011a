"""SAFE: the threshold, importance by CKA, which adapters freeze, and what backward keeps then."""

import itertools
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers.modeling_outputs import BaseModelOutput

from read_cache.errors import UserError
from read_cache.methods.base import LiveBatch, build_method
from read_cache.methods.batches import TokenBatches
from read_cache.methods.run import store_backbone
from read_cache.methods.safe import Safe, SafeConfig, cubic_threshold, linear_cka
from read_cache.store.reader import StoreReader
from support.backbones import folder_of
from support.stores import make_store


@pytest.fixture(scope="module", params=["tied", "bert", "llama"])
def store(request, tmp_path_factory, rows_folder) -> StoreReader:
    path, task = tmp_path_factory.mktemp("stores") / request.param, str(rows_folder / "words.toml")
    return make_store(path, folder_of(request.param), task, rows_folder / "words", max_source_length=32)


def safe(store: StoreReader, **settings: Any) -> Safe:
    live = build_method("safe", SafeConfig(**settings), store_backbone(store.manifest), seed=3)
    assert isinstance(live, Safe)
    return live


def batches_of(store: StoreReader, live: Safe) -> TokenBatches:
    return TokenBatches(store, "train", live.backbone, batch_size=6)


def stir(live: Safe, seed: int = 0) -> None:
    """Give adapters an effect, the more the higher they are."""
    generator = torch.Generator().manual_seed(seed)
    for index, adapter in enumerate(live.adapters, start=1):
        adapter.up.weight.data.normal_(std=0.2 * index, generator=generator)


def test_the_threshold_is_cubic() -> None:
    taus = [cubic_threshold(time, 0.1, 0.5, 0.8) for time in (0.0, 0.1, 0.2, 0.3, 0.5, 0.9)]
    assert taus == pytest.approx([0, 0, 0.8 * (1 - 0.75**3), 0.8 * (1 - 0.5**3), 0.8, 0.8])


def test_cka() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(50, 8, generator=generator) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, -3 * x @ rotation + 5) == pytest.approx(1)
    assert linear_cka(torch.full((50, 8), 0.1), noise) == 1
    assert linear_cka(x, noise) < linear_cka(x, x + noise) < 1
    centred = (x - x.mean(0), noise - noise.mean(0))
    grams = [values @ values.T for values in centred]
    slow = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    assert linear_cka(x, noise) == pytest.approx(float(slow), rel=1e-4)


@pytest.mark.parametrize("kind", ["block", "adapter"])
def test_importance_grows_with_what_adapters_change(store, kind) -> None:
    live = safe(store, importance=kind, probe_batches=2)
    probe = list(batches_of(store, live).in_order())[:2]
    for adapter in live.adapters:
        adapter.up.weight.data.zero_()
    assert live.importance(probe).tolist() == pytest.approx([0] * len(live.adapters), abs=1e-6)
    for linear in (live.adapters[-1].down, live.adapters[-1].up):
        linear.weight.data.normal_(std=3.0, generator=torch.Generator().manual_seed(0))
    *others, last = live.importance(probe).tolist()
    changed = 2 if kind == "block" else 1  # both adapters of a block have its importance
    assert last > 0.01
    assert others[: len(others) + 1 - changed] == pytest.approx([0] * (len(others) + 1 - changed), abs=1e-6)
    if kind == "block":
        assert others[-1] == last
        blocks = [caught(live, probe, adapted) for adapted in (False, True)]
        assert last == pytest.approx(1 - float(linear_cka(*blocks)), abs=1e-6)


@torch.no_grad()
def caught(live: Safe, probe: list[LiveBatch], adapted: bool) -> torch.Tensor:
    """The last block's outputs at real positions, by a hook."""
    outputs: list[torch.Tensor] = []
    block = live.backbone.blocks()[live.readout][-1].module
    hook = block.register_forward_hook(lambda part, given, out: outputs.append(out if torch.is_tensor(out) else out[0]))
    live.adapted = adapted
    for batch in probe:
        live(batch)
        outputs[-1] = outputs[-1][batch.tokens.stacks[live.readout].mask]
    hook.remove()
    live.adapted = True
    return torch.cat(outputs)


def test_the_frozen_set_only_grows_and_stops_growing(store) -> None:
    live = safe(store, freezing_start=0.2, freezing_end=0.6, importance="adapter")
    batches, frozen = batches_of(store, live), []
    for epoch in range(1, 10):
        stir(live, seed=epoch)
        live.end_epoch(epoch, 10, batches)
        frozen.append(live.get_extra_state())
    assert not any(one.any() for one in frozen[:2])
    assert all((before <= after).all() for before, after in itertools.pairwise(frozen))
    assert frozen[5].float().mean() >= 0.5
    assert torch.equal(frozen[5], frozen[-1])
    assert frozen[2].sum() < frozen[5].sum() < len(live.adapters)
    again = safe(store)
    again.set_extra_state(frozen[-1])
    assert torch.equal(again.get_extra_state(), frozen[-1])


def test_freezing_ends_in_the_first_epoch_after_its_time_and_one_adapter_trains(store) -> None:
    live = safe(store, threshold=1.0)
    batches = batches_of(store, live)
    stir(live)
    live.end_epoch(2, 3, batches)  # 2/3 is over freezing_end, and 1/3 was not
    assert (~live.get_extra_state()).sum() == 1
    late = safe(store, threshold=1.0)
    late.end_epoch(3, 4, batches)
    assert not late.get_extra_state().any()


def saved_bytes(live: Safe, batch: LiveBatch) -> int:
    """Bytes that backward keeps of a forward pass."""
    kept: list[int] = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda tensor: tensor):
        live(batch, torch.Generator().manual_seed(0))
    return sum(kept)


def test_backward_keeps_nothing_below_the_lowest_adapter_that_trains(store) -> None:
    """As much as a model without the lower blocks keeps; of T5, as much as the decoder."""
    live, cut = safe(store), safe(store)
    batch = next(batches_of(store, live).in_order())
    whole, first, count = saved_bytes(live, batch), live.backbone.stacks[0].layers, len(live.adapters)
    below = first if len(live.backbone.stacks) > 1 else 1
    live.set_extra_state(torch.arange(count) < 2 * below)
    if len(live.backbone.stacks) > 1:
        states = cut.backbone.forward(batch.tokens)["encoder"].hidden[-1].detach()
        cut.backbone.encoder.forward = lambda **inputs: BaseModelOutput(states)
    else:
        model = cut.backbone.module.base_model
        holder, name = (model.encoder, "layer") if hasattr(model, "encoder") else (model, "layers")
        setattr(holder, name, getattr(holder, name)[below:])
    assert 0 < saved_bytes(live, batch) == saved_bytes(cut, batch) < whole


def test_bad_settings() -> None:
    with pytest.raises(UserError, match=r"freezing_end is 0\.1"):
        SafeConfig(freezing_end=0.1, freezing_start=0.2)
