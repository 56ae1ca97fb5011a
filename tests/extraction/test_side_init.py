"""Pruned first weights: against a slow version, index by index; Fisher by hand; from `extract` into a network."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

import read_cache
from read_cache.backbones import open_backbone
from read_cache.config import ExtractConfig
from read_cache.errors import UserError
from read_cache.extraction.plan import make_plan
from read_cache.extraction.side_init import fisher, largest_rows, magnitude, prune, side_init
from read_cache.store.folder import StoreFolder
from read_cache.tasks import find_task
from read_cache.training.from_store import FromStore, build
from read_cache.watch import Watch
from support.training import network

REDUCTION = 2


def toy(gated: bool) -> SimpleNamespace:
    """A T5 of two blocks a stack, as `prune` sees a backbone."""
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=11, d_model=8, d_kv=4, num_heads=3, d_ff=10, num_layers=2, num_decoder_layers=2,
        feed_forward_proj="gated-gelu" if gated else "relu", decoder_start_token_id=0,
    )  # fmt: skip
    module = T5ForConditionalGeneration(config)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return SimpleNamespace(module=module, stacks=(SimpleNamespace(name="encoder"), SimpleNamespace(name="decoder")))


def slow_choice(matrices: list[list[list[float]]], columns: list[int]) -> list[int]:
    """Indices of the rows to keep: half of them, by their sums of |product| over some columns."""
    scores = []
    for row in range(len(matrices[0])):
        score = 0.0
        for column in columns:
            product = 1.0
            for matrix in matrices:
                product *= matrix[row][column]
            score += abs(product)
        scores.append(score)
    best = sorted(range(len(scores)), key=lambda row: -scores[row])[: len(scores) // REDUCTION]
    return sorted(best)


def slow_weights(module: T5ForConditionalGeneration) -> dict[str, list]:
    """Pruned weights by name, by magnitude."""
    weights = {name: value.tolist() for name, value in module.state_dict().items()}
    made: dict[str, list] = {}

    def cut(name: str, rows: list[int], columns: list[int]) -> list[list[float]]:
        return [[weights[name][row][column] for column in columns] for row in rows]

    embedding = weights["shared.weight"]
    channels = [[token[channel] for token in embedding] for channel in range(len(embedding[0]))]
    kept = slow_choice([channels], list(range(len(embedding))))
    for stack in ("encoder", "decoder"):
        names = [("SelfAttention", "self_norm", "self_attention.")]
        if stack == "decoder":
            names.append(("EncDecAttention", "cross_norm", "cross_attention."))
        names.append(("DenseReluDense", "feed_forward_norm", ""))
        for block in range(2):
            for layer, (theirs, norm, prefix) in enumerate(names):
                at, own = f"{stack}.block.{block}.layer.{layer}", f"{stack}.{block + 1}"
                made[f"{own}.{norm}.weight"] = [weights[f"{at}.layer_norm.weight"][channel] for channel in kept]
                ours = {"q": "q", "k": "k", "v": "v"}
                if theirs == "DenseReluDense":
                    gated = f"{at}.{theirs}.wi_0.weight" in weights
                    ours = {"wi_0": "wi", "wi_1": "wi_linear"} if gated else {"wi": "wi"}
                rows = slow_choice([weights[f"{at}.{theirs}.{name}.weight"] for name in ours], kept)
                for name, side in ours.items():
                    made[f"{own}.{prefix}{side}.weight"] = cut(f"{at}.{theirs}.{name}.weight", rows, kept)
                output = "wo" if theirs == "DenseReluDense" else "o"
                kept = slow_choice([weights[f"{at}.{theirs}.{output}.weight"]], rows)
                made[f"{own}.{prefix}{output}.weight"] = cut(f"{at}.{theirs}.{output}.weight", kept, rows)
        made[f"{stack}.norm.weight"] = [weights[f"{stack}.final_layer_norm.weight"][channel] for channel in kept]
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        made[f"{stack}.position_bias"] = weights[table]
    return made


@pytest.mark.parametrize("gated", [False, True])
def test_magnitude_is_what_a_slow_version_makes(gated) -> None:
    backbone = toy(gated)
    fast = dict(prune(backbone, magnitude(backbone), REDUCTION))
    slow = slow_weights(backbone.module)
    assert fast.keys() == slow.keys()
    for name, weight in fast.items():
        assert torch.equal(weight, torch.tensor(slow[name])), name
    assert fast["encoder.1.self_attention.q.weight"].shape == (6, 4)
    assert fast["decoder.2.wo.weight"].shape == (4, 5)


def test_products_of_tiny_importances_still_rank() -> None:
    tiny = torch.tensor([[1e-30], [3e-30], [2e-30], [0.0]])
    assert largest_rows([tiny, tiny, tiny], 2).tolist() == [1, 2]
    assert largest_rows([torch.ones(4, 1)], 2).tolist() == [0, 1]


@pytest.fixture(scope="module")
def planned(models, rows_folder):
    """A backbone and the plan of its `words` store."""
    backbone = open_backbone(str(models["tied"]), "fp32")
    task, config = find_task(str(rows_folder / "words.toml")), ExtractConfig()
    return backbone, make_plan(backbone, task, str(rows_folder / "words"), config)


def test_fisher_sums_the_squared_gradients_of_each_rows_label(planned) -> None:
    backbone, plan = planned
    arrays, module = plan.splits["train"].arrays, backbone.module
    found = fisher(backbone, plan, 3)
    assert not any(weight.requires_grad or weight.grad is not None for weight in module.parameters())
    watched = module.decoder.block[1].layer[1].EncDecAttention.k.weight.requires_grad_()
    expected = torch.zeros_like(watched)
    for row in range(3):
        start, length = arrays["encoder/token_offset"][row], arrays["encoder/length"][row]
        ids = torch.from_numpy(arrays["encoder/token"][start : start + length])[None].long()
        label = plan.manifest.label_ids[arrays["label"][row]]
        logits = module(input_ids=ids, decoder_input_ids=torch.tensor([[0, *label[:-1]]])).logits[0]
        expected += torch.autograd.grad(F.cross_entropy(logits, torch.tensor(label)), watched)[0] ** 2
    watched.requires_grad_(False)
    assert expected.max() > 0
    torch.testing.assert_close(found[watched] / expected.max(), expected / expected.max(), atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_bytes(planned) -> None:
    backbone, plan = planned
    for kind in ("magnitude", "fisher"):
        config = ExtractConfig(side_init=kind, side_reduction=4)
        first = side_init(backbone, plan, config)
        assert first == side_init(backbone, plan, config)
        assert first != side_init(backbone, plan, config.replaced(seed=1))


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_from_extract_into_a_network(tmp_path, models, rows_folder, kind) -> None:
    said: list[str] = []

    def extract(**settings: object) -> None:
        words = str(models[kind]), str(rows_folder / "words.toml"), tmp_path / "store"
        watch = Watch(say=said.append)
        read_cache.extract(*words, dataset=rows_folder / "words", layers="1", watch=watch, **settings)

    extract()
    wanted = [network(name, init="fisher", reduction=4) for name in ("ladder", "side_tuning")]
    setup = FromStore(StoreFolder(tmp_path / "store"))
    manifest, path = setup.folder.read_manifest(), tmp_path / "store" / "side_init-fisher-4.safetensors"
    with pytest.raises(UserError, match=f"{path.name}.*side_init=fisher.*side_reduction=4"):
        setup.check(wanted, manifest)
    extract(side_init="fisher", side_reduction=4)
    setup.check(wanted, manifest)
    with safe_open(path, "np") as file:
        facts = json.loads(file.metadata()["side_init"])
    expected = {"kind": "fisher", "reduction": 4, "rows": 40, "seed": 0, "layers": {"encoder": "1-3", "decoder": "1-2"}}
    assert facts == expected | {"backbone": manifest.backbone.digest}
    assert json.loads(Path(f"{path}.json").read_text())["wall_seconds"] > 0
    rows = torch.from_numpy(read_cache.open_store(tmp_path / "store").head[1])
    weights, written = load_file(path), path.stat().st_mtime_ns
    ladder, side_tuning = (build(config, manifest, rows, "cpu")[0] for config in wanted)
    for made, layers in ((ladder, (1, 3)), (side_tuning, (1, 2, 3))):
        made.take_first_weights(setup.folder)
        for number, layer in enumerate(layers):
            block = made.sides["encoder"].blocks[number]
            for name, weight in block.named_parameters():
                assert torch.equal(weight, weights[f"encoder.{layer}.{name}"]), name
        assert torch.equal(made.sides["decoder"].norm.weight, weights["decoder.norm.weight"])
        assert torch.equal(made.sides["decoder"].position_bias, weights["decoder.position_bias"])
        assert made.up.weight.std() < 0.02
    with pytest.raises(UserError, match=r"expected \[24, 8\]"):
        setup.check([network("ladder", init="fisher", reduction=4, feed_forward=24)], manifest)
    extract(side_init="fisher", side_reduction=4)
    assert path.stat().st_mtime_ns == written
    assert sum("side_init-fisher-4.safetensors" in line for line in said) == 1
    result = read_cache.train(
        tmp_path / "store", tmp_path / "run", network="ladder", epochs=1, init="fisher", reduction=4
    )
    assert "init=fisher" in result.results[0].network


def test_what_cannot_be_pruned(tmp_path, models, bert, rows_folder) -> None:
    words = str(rows_folder / "words.toml"), tmp_path / "store"
    with pytest.raises(UserError, match="side_init prunes a T5"):
        read_cache.extract(str(bert), *words, dataset=rows_folder / "words", side_init="magnitude")
    with pytest.raises(UserError, match="side_reduction is 3"):
        read_cache.extract(
            str(models["tied"]), *words, dataset=rows_folder / "words", side_init="magnitude", side_reduction=3
        )
    assert not (tmp_path / "store").exists()
