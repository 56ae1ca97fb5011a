"""From parts to batches: the same wherever parts are held, and within the memory that is given."""

import threading

import numpy as np
import pytest
import torch

from read_cache.errors import StoreError
from read_cache.loader.batches import SplitBatches, channel_statistics, make_collator, split_size
from read_cache.store.reader import StoreReader
from support.files import tensors
from support.operations import Operations
from support.stores import make_store, plan_values, stored_values


@pytest.fixture(scope="module", params=["tied", "bert"])
def many_parts(request, tmp_path_factory, models, bert, rows_folder) -> StoreReader:
    """A store of small parts, of two stacks or of one."""
    path = tmp_path_factory.mktemp("parts") / request.param
    if request.param == "bert":
        task, rows, model = "pairs.toml", "scores", bert
    else:
        task, rows, model = "words.toml", "words", models["tied"]
    settings = {"part_tokens": 50, "max_source_length": 40}
    return make_store(path, model, str(rows_folder / task), rows_folder / rows, **settings)


def test_the_batches_are_the_same_in_every_tier_and_from_any_position(many_parts) -> None:
    """Streamed, held in memory, held as tensors as on a device; one epoch differs from another and from other seeds."""
    store = many_parts
    split, collator = store.split("train"), make_collator(store, raw=True)
    assert split.parts > 4
    tiers = {tier: SplitBatches(split, collator, 8, window=2, tier=tier) for tier in ("streamed", "memory", "device")}

    def epoch(tier: str, seed: int, number: int, start: int = 0) -> list[bytes]:
        batches = tiers[tier].epoch(seed, number, start)
        return [b"".join(x.float().numpy().tobytes() for x in tensors(batch)) for batch in batches]

    first = epoch("streamed", 0, 0)
    assert len(first) == len(tiers["streamed"]) == -(-split.examples // 8)
    for tier in tiers:
        assert epoch(tier, 0, 0) == first
        assert epoch(tier, 0, 0, start=3) == first[3:]
        assert len({tuple(first), tuple(epoch(tier, 0, 1)), tuple(epoch(tier, 1, 0))}) == 3


def test_a_reader_that_is_left_in_the_middle_lets_go(many_parts) -> None:
    store = many_parts
    batches = SplitBatches(store.split("train"), make_collator(store), 4, window=1)
    whole = [batch.final for batch in batches.epoch(0, 0)]
    reading = batches.epoch(0, 0)
    next(reading)
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]
    assert all(torch.equal(a.final, b) for a, b in zip(batches.epoch(0, 0), whole, strict=True))


def test_a_batch_holds_each_examples_own_values(many_parts) -> None:
    """Padded with zeros, -1 for positions; the triangle of a causal stack is a square again."""
    store = many_parts
    split, readout = store.split("validation"), store.manifest.backbone.readout
    for batch in SplitBatches(split, make_collator(store), 5).epoch(seed=4, epoch=0):
        targets = batch.targets
        assert len(batch) == len(targets) == len(targets.rows)
        assert torch.equal(batch.final, batch.stacks[readout].values[-1].float())
        assert list(batch.stacks) == [stack.name for stack in store.manifest.backbone.stacks]
        for place, row in enumerate(targets.rows.tolist()):
            assert int(targets.label[place]) == split.plan["label"][row]
            assert float(targets.score[place]) == split.plan["score"][row]
            for name, stack in batch.stacks.items():
                n = int(split.plan[f"{name}/length"][row])
                assert stack.real[place].tolist() == [True] * n + [False] * (stack.real.shape[1] - n)
                stored = stored_values(store, "validation", row, f"{name}/hidden")
                found = stack.values[:, place].view(torch.int16).numpy().view(np.uint16)
                assert np.array_equal(found[:, :n], stored)
                assert not found[:, n:].any()
                check_attention(store, stack, row, place, n, split.plan)
                check_positions(store, batch, row, place, n, name)


def check_attention(store, stack, row, place, n, plan) -> None:
    """Attention weights of one example against the store's."""
    spec = store.manifest.backbone.stack(stack.name)
    stored = stored_values(store, "validation", row, f"{stack.name}/self_attention").astype(np.float32)
    found = stack.self_attention[:, place].numpy()
    if spec.causal:
        assert np.array_equal(found[(..., *np.tril_indices(n))], stored)
        assert not found[(..., *np.triu_indices(found.shape[-1], 1))].any()
    else:
        assert np.array_equal(found[..., :n, :n].reshape(stored.shape), stored)
    assert not found[..., n:, :].any()
    assert not found[..., n:].any()
    if spec.attends_to:
        m = int(plan[f"{spec.attends_to}/length"][row])
        stored = stored_values(store, "validation", row, f"{stack.name}/cross_attention").astype(np.float32)
        found = stack.cross_attention[:, place].numpy()
        assert np.array_equal(found[..., :n, :m].reshape(stored.shape), stored)
        assert not found[..., n:, :].any()
        assert not found[..., m:].any()
    else:
        assert stack.cross_attention is None


def check_positions(store, batch, row, place, n, name) -> None:
    """What a head knows of positions, against the plan."""
    positions, spec = batch.targets.positions[name], store.manifest.backbone.stack(name)
    assert torch.equal(positions.real, batch.stacks[name].real)
    if spec.segments:
        assert (
            positions.segment[place, :n].tolist() == plan_values(store, "validation", row, f"{name}/segment").tolist()
        )
        assert (positions.segment[place, n:] == -1).all()
    if store.manifest.trie is not None and name == store.manifest.backbone.readout:
        found = {"trie": batch.targets.node_trie, "parent": batch.stacks[name].parent}
        for kind, values in found.items():
            assert values[place, :n].tolist() == plan_values(store, "validation", row, f"{name}/{kind}").tolist()
            assert (values[place, n:] == -1).all()
        tokens, gold = store.head[0], plan_values(store, "validation", row, f"{name}/target")
        rows = batch.targets.node_target[place]
        assert [int(tokens[index]) if index >= 0 else -1 for index in rows[:n].tolist()] == gold.tolist()
        assert (rows[n:] == -1).all()


def test_only_what_is_asked_for_is_read(words_store) -> None:
    store = StoreReader(words_store)
    split = store.split("train")
    whole, bare = make_collator(store, raw=True), make_collator(store, layers=(), attention=False)
    assert set(bare.arrays) == {"encoder/hidden", "decoder/hidden"}
    assert set(whole.arrays) == set(split.specs)
    assert bare.format.layers == {"encoder": (3,), "decoder": (2,)}
    assert (
        split_size(split.manifest, split.name, bare).part_bytes
        < split_size(split.manifest, split.name, whole).part_bytes
    )
    batch = next(SplitBatches(split, bare, 4).in_order())
    assert batch.stacks["encoder"].self_attention is batch.stacks["decoder"].cross_attention is None
    assert batch.stacks["encoder"].values.shape[0] == 2
    some = make_collator(store, layers=[2], attention=True)
    assert some.format.layers == {"encoder": (2, 3), "decoder": (2,)}


def test_a_batch_of_fewer_layers_is_shared_and_the_same_as_one_that_was_read_so(words_store) -> None:
    store = StoreReader(words_store)
    split, layers = store.split("train"), {"encoder": (1, 3), "decoder": (2,)}
    whole = next(SplitBatches(split, make_collator(store, raw=True), 6).in_order())
    with Operations() as operations:
        cut = whole.of(layers)
    assert not [name for name in operations.names if "index" in name], "it would be copied to the device"
    assert cut is whole.of(dict(layers))
    assert whole.of({"encoder": (1, 2, 3), "decoder": (1, 2)}) is whole
    for read in SplitBatches(split, make_collator(store, layers=[1], raw=True), 6).in_order():
        read = read.of(layers)
        break
    for name in layers:
        assert cut.stacks[name].layers == read.stacks[name].layers == layers[name]
        pairs = list(zip(tensors(cut.stacks[name]), tensors(read.stacks[name]), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs)


def test_raw_states_need_a_final_norm_that_can_be_undone(words_store) -> None:
    store = StoreReader(words_store)
    store.final_norm["decoder"][3] = 0
    make_collator(store)
    with pytest.raises(StoreError, match="decoder's final norm"):
        make_collator(store, raw=True)


@pytest.mark.parametrize("name", ["words_store", "bert_store"])
def test_channels_are_standardised_over_training_rows(name, request) -> None:
    store = StoreReader(request.getfixturevalue(name))
    batches = SplitBatches(store.split("train"), make_collator(store), 7)
    found = channel_statistics(batches)
    assert list(found) == [stack.name for stack in store.manifest.backbone.stacks]
    for stack, statistics in found.items():
        states = [batch.stacks[stack].whole_states()[:, batch.stacks[stack].real] for batch in batches.in_order()]
        rows = torch.cat(states, dim=1)
        torch.testing.assert_close(statistics.mean, rows.mean(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(statistics.deviation, rows.std(1, unbiased=False), atol=1e-4, rtol=1e-3)
        fewer = statistics.of((2, *statistics.layers[2:]))
        assert torch.equal(fewer.mean, statistics.mean[[0, 2, *range(3, len(statistics.mean))]])
        assert fewer.scale.shape == fewer.mean.shape


def test_statistics_of_components_are_those_of_their_states(models, rows_folder, tmp_path) -> None:
    words = str(rows_folder / "words.toml"), rows_folder / "words"
    store = make_store(tmp_path / "store", models["tied"], *words, rank=8)
    batches = SplitBatches(store.split("train"), make_collator(store), 7)
    states = [b.stacks["encoder"].whole_states()[:, b.stacks["encoder"].real] for b in batches.in_order()]
    rows = torch.cat(states, dim=1)
    torch.testing.assert_close(channel_statistics(batches)["encoder"].mean, rows.mean(1), atol=1e-5, rtol=1e-4)
