"""Networks from a store of readout positions or pooled states: what they are from all positions, and live."""

import json
from contextlib import nullcontext

import pytest
import torch

import read_cache
from read_cache.errors import UserError
from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.networks.base import NETWORKS, NetworkShape, check_needs
from read_cache.scoring.choose import store_head
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from read_cache.training.from_store import FromStore
from support.backbones import DECODERS, folder_of
from support.live import FP32_NOISE, load, network_of, stored_predictions
from support.stores import make_store
from support.training import network

UNJOINED = ("read", {"attention": "none"})
UNMATCHED = ("read_matching", {"attention": "none", "matching": 0, "residual": 0.5})
LAYERS, PROBE = ("layer_probe", {"hidden": 8}), ("probe", {})
POOLINGS = [("layer_probe", {"hidden": 8, "pooling": pooling}) for pooling in ("mean", "first", "apart")]
CASES = [
    *((kind, "words", "readout", *network) for kind in DECODERS for network in (UNJOINED, UNMATCHED, LAYERS, PROBE)),
    *((kind, "pairs", "pooled", *network) for kind in ("bert", "roberta") for network in (*POOLINGS, PROBE)),
    *(("tied", "words", "pooled", *network) for network in (UNJOINED, *POOLINGS[:2], PROBE)),
]


@pytest.fixture(scope="module")
def pair_rows(tmp_path_factory, rows_folder):
    """The pairs of `scores`, some with an empty text."""
    folder = tmp_path_factory.mktemp("pairs")
    for path in (rows_folder / "scores").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows[::4]:
            row["sentence2"] = ""
        (folder / path.name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def stores(tmp_path_factory, rows_folder, pair_rows):
    """fp32 stores by kind of backbone, task and positions, made on first use."""
    made: dict[tuple[str, ...], StoreReader] = {}

    def store(kind: str, task: str, positions: str) -> StoreReader:
        key = kind, task, positions
        if key not in made:
            made[key] = make_store(
                tmp_path_factory.mktemp("positions"), folder_of(kind), str(rows_folder / f"{task}.toml"),
                pair_rows if task == "pairs" else rows_folder / "words", dtype="fp32", attention="none",
                positions=positions, max_source_length=60,
            )  # fmt: skip
        return made[key]

    return store


def loss_and_gradients(store: StoreReader, trained, settings: HeadSettings):
    """Return the loss of the first training rows, and the gradient of every weight by name."""
    network, rows = trained.network, None if store.head is None else torch.from_numpy(store.head[1])
    head = store_head(settings, store.manifest, rows, network)
    head.load_state_dict(dict(trained.head_weights))
    batch = next(iter(SplitBatches(store.split("train"), make_collator(store), 16).in_order()))
    network.zero_grad()
    loss = head.eval().loss(network(batch), batch.targets)
    loss.backward()
    parameters = {**dict(network.named_parameters()), **{f"head.{n}": p for n, p in head.named_parameters()}}
    return loss.detach(), {name: weight.grad for name, weight in parameters.items()}


@pytest.mark.parametrize(("kind", "task", "positions", "network", "settings"), CASES)
def test_networks_are_what_they_are_from_all_positions(
    stores, rows_folder, pair_rows, kind, task, positions, network, settings
) -> None:
    """Loss, every gradient, predictions from both stores, and those beside the backbone."""
    small, everywhere = stores(kind, task, positions), stores(kind, task, "all")
    pooling = "first" if positions == "readout" else settings.get("pooling", "apart" if task == "pairs" else "mean")
    head = HeadSettings(pooling=pooling)
    trained = network_of(small, network, head=head, **settings)
    check_needs(trained.network, small.manifest.format, network, "the store")
    (loss, gradients), (expected_loss, expected) = (
        loss_and_gradients(store, trained, head) for store in (small, everywhere)
    )
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    assert any(gradient.abs().max() > 1e-4 for gradient in expected.values())
    torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)
    _, stored = stored_predictions(small, trained)
    torch.testing.assert_close(stored_predictions(everywhere, trained)[1], stored, atol=FP32_NOISE, rtol=1e-3)
    folder = pair_rows if task == "pairs" else rows_folder / "words"
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    live = read_cache.attach(load(folder_of(kind)), {"network": trained}).classify(rows, batch_size=4)["network"]
    values = [list(one.probabilities.values()) or one.value for one in live]
    torch.testing.assert_close(torch.tensor(values), stored, atol=FP32_NOISE, rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "positions", "network", "settings"),
    [
        ("llama", "readout", "ladder", {"reduction": 2}),
        ("llama", "readout", "read_matching", {"attention": "none"}),
        ("bert", "pooled", *UNJOINED),
        ("bert", "pooled", "ladder", {"reduction": 2}),
        ("tied", "pooled", "ladder", {"reduction": 2}),
    ],
)
def test_networks_that_read_more_positions_are_refused(stores, kind, positions, network, settings) -> None:
    """The message names what is read, what is held, and what to do."""
    manifest = stores(kind, "words", positions).manifest
    made = NETWORKS[network](NETWORKS[network].Config(**settings), NetworkShape.of(manifest.backbone, manifest.format))
    with pytest.raises(UserError, match=f"the network reads .* the store holds {positions} .*positions"):
        check_needs(made, manifest.format, "the network", "the store")
    check_needs(made, stores(kind, "words", "all").manifest.format, "the network", "the store")


def test_a_head_that_would_weigh_one_mean_of_each_text_is_refused(stores) -> None:
    attentive = network("probe").replaced(head=HeadSettings(attentive=True))
    for positions, refusal in (("all", nullcontext()), ("pooled", pytest.raises(UserError, match=r"head\.attentive"))):
        store = stores("bert", "words", positions)
        with refusal:
            FromStore(store.folder).check([attentive], store.manifest)
