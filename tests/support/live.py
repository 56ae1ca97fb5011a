"""Backbones as users load them, stores of one backbone, and networks bound to these without training.

`reference_batch` makes a network's input from transformers' outputs, and shares nothing with the code under test but
the classes of a batch.
"""

import atexit
import copy
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from read_cache.loader.batch import Batch, StackBatch, Statistics, Targets
from read_cache.loader.batches import SplitBatches, channel_statistics, make_collator
from read_cache.networks.base import NETWORKS, NetworkShape, build_network
from read_cache.networks.saved import NetworkRecord, TrainedNetwork
from read_cache.scoring.choose import store_head
from read_cache.scoring.evaluator import score_batch
from read_cache.scoring.heads import HeadSettings
from read_cache.store.reader import StoreReader
from support.backbones import BERT_KINDS, DECODERS, folder_of
from support.stores import make_store, open_split

_HOME = tempfile.TemporaryDirectory(prefix="read-cache-stores-")
atexit.register(_HOME.cleanup)
FP32_NOISE = 1e-4  # one example alone against the same one in a padded batch: products are summed in another order
BF16_NOISE = 0.05
TEXTS = ["the old river runs past a quiet town", "people live", "a quiet town where many people live and work near sea"]

STORES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "words": ("tied", "words", {"dtype": "fp32"}),
    "heads": ("tied", "words", {"dtype": "fp32", "attention": "heads"}),
    "layers": ("tied", "words", {"dtype": "fp32", "layers": "1"}),
    "scores": ("tied", "pairs", {"dtype": "fp32"}),
    "open": ("tied", "open", {"dtype": "fp32"}),
    "bf16": ("tied", "words", {}),
    "int8": ("tied", "words", {"dtype": "int8", "attention_dtype": "uint8"}),
    "rank8": ("tied", "words", {"dtype": "int8", "rank": 8}),
    "bert": ("bert", "words", {"dtype": "fp32"}),
    "bert-heads": ("bert", "words", {"dtype": "fp32", "attention": "heads"}),
    "bert-pairs": ("bert", "pairs", {"dtype": "fp32"}),
    "bert-bf16": ("bert", "pairs", {}),
    "bert-int8": ("bert", "words", {"dtype": "int8"}),
    "roberta": ("roberta", "words", {"dtype": "fp32", "max_source_length": 60}),
}
"""By name: backbone, task, settings. Several tasks of two families, an open target, and every format."""
FEWER_POSITIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "pooled": ("bert", "words", {"dtype": "fp32", "positions": "pooled"}),
    "readout": ("llama", "words", {"dtype": "fp32", "attention": "none"}),
}
"""Stores that some networks alone can read."""

SMALL_NETWORKS: dict[str, dict[str, Any]] = {
    "read": {"cell": "gru"},
    "read_matching": {"matching": 8},
    "ladder": {"reduction": 2},
    "layer_probe": {},
    "probe": {},
}
"""Settings of a network of every kind."""


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Return a backbone as a user of transformers loads it."""
    return copy.deepcopy(loaded(folder, dtype))


@functools.cache
def loaded(folder: Path, dtype: torch.dtype) -> Any:
    """Load a backbone. Do not change it."""
    config = AutoConfig.from_pretrained(folder)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
    if config.model_type in DECODERS:
        auto = AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def load_for(store: StoreReader) -> Any:
    """Return the backbone of one of `STORES`, in the precision that the store was computed in."""
    dtype = torch.bfloat16 if store.manifest.activations.compute_dtype == "bf16" else torch.float32
    return load(Path(store.manifest.backbone.name), dtype)


def tokens(folder: Path, texts: list[str] = TEXTS) -> dict[str, Tensor]:
    """Return a padded batch, as the tokenizer makes it."""
    return dict(AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt"))


def make_stores(path: Path, rows_folder: Path, *names: str) -> dict[str, StoreReader]:
    """Return some of `STORES` and `FEWER_POSITIONS`, copied from those that the session has made before."""
    return {name: StoreReader(shutil.copytree(make_once(rows_folder, name), path / name)) for name in names}


@functools.cache
def make_once(rows_folder: Path, name: str) -> Path:
    """Return the folder of one of them. Do not change it."""
    kind, task, settings = (STORES | FEWER_POSITIONS)[name]
    rows = rows_folder / ("scores" if task == "pairs" else "words")
    limit = {"max_source_length": 60} if kind in BERT_KINDS else {}
    path = Path(_HOME.name) / name
    make_store(path, folder_of(kind), str(rows_folder / f"{task}.toml"), rows, **limit | settings)
    return path


def network_of(
    store: StoreReader,
    kind: str = "read",
    trained: bool = True,
    head: HeadSettings | None = None,
    **settings: Any,
) -> TrainedNetwork:
    """Return a network with random weights that is bound to a store; not `trained`, it is as built."""
    manifest, head = store.manifest, head or HeadSettings()
    settings = {"hidden": 8} | settings if kind.startswith("read") else settings
    config = NETWORKS[kind].resolve(NETWORKS[kind].Config(**settings), manifest.format)
    shape = NetworkShape.of(manifest.backbone, manifest.format, config.layers)
    network = build_network(kind, config, shape, seed=2).eval()
    network.set_statistics(statistics_of(store))
    rows = None if store.head is None else torch.from_numpy(store.head[1])
    weights = store_head(head, manifest, rows, network, seed=3)
    if trained:
        scramble(network)
        for parameter in weights.parameters():
            parameter.data.mul_(3)
    record = NetworkRecord(
        name=f"{kind}-{getattr(config, 'cell', '')}", kind=kind, config=config.values(), head=head.values(),
        learning_rate=1e-3, seed=2, backbone=manifest.backbone, activations_digest=manifest.activations_digest,
        task_digest=manifest.task_digest, tokenizer_digest=manifest.activations.tokenizer_digest, task=manifest.task,
        label_ids=manifest.label_ids,
        max_source_length=manifest.activations.max_source_length, format=manifest.format,
        compute_dtype=manifest.activations.compute_dtype, run={}, scores={},
    )  # fmt: skip
    return TrainedNetwork(network, weights.state_dict(), record, store.calibration)


@functools.lru_cache(maxsize=32)
def statistics_of(store: StoreReader) -> dict[str, Statistics]:
    """Return the statistics of the training split's states."""
    return channel_statistics(SplitBatches(open_split(store, "train"), make_collator(store), 8))


def scramble(network: torch.nn.Module) -> None:
    """Give a network an effect: READ's correction, which starts at zero; every weight of a ladder."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if name == "U":
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
        elif not hasattr(network, "U"):
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def saved_weights(trained: TrainedNetwork) -> dict[str, Tensor]:
    """Return the weights as `save_network` takes them."""
    network = {f"network.{name}": value for name, value in trained.network.state_dict().items()}
    return network | {f"head.{name}": value for name, value in trained.head_weights.items()}


def stored_predictions(
    store: StoreReader, trained: TrainedNetwork, split: str = "test", batch_size: int = 4
) -> tuple[Tensor, Tensor]:
    """Return (predicted [N], probabilities [N, K]) of a split from the store alone, in the order of its rows.

    Without probabilities the second tensor is the first.
    """
    rows = None if store.head is None else torch.from_numpy(store.head[1])
    settings = HeadSettings(**trained.record.head)
    head = store_head(settings, store.manifest, rows, trained.network)
    head.load_state_dict(dict(trained.head_weights))
    raw = trained.network.needs(trained.network.config).raw
    batches = SplitBatches(open_split(store, split), make_collator(store, raw=raw), batch_size)
    scores = [score_batch(trained.network, head.eval(), batch) for batch in batches.in_order()]
    predicted = torch.cat([one.predicted for one in scores])
    probabilities = [one.predicted if one.probabilities is None else one.probabilities for one in scores]
    order = torch.from_numpy(open_split(store, split).plan["example_id"]).argsort()
    return predicted[order], torch.cat(probabilities)[order]


@dataclasses.dataclass(frozen=True)
class ReferenceStack(StackBatch):
    """A stack whose raw states are those that hooks caught."""

    caught: Tensor | None = None
    """[L+1, B, S, D]"""

    def raw_state(self, index: int) -> Tensor:
        """Return a state as its block gave it."""
        assert self.caught is not None
        return self.caught[index]


def reference_batch(
    model: Any,
    source: Sequence[np.ndarray],
    decoder: Sequence[np.ndarray] | None,
    token_type: Sequence[np.ndarray] | None,
    attention: str,
    targets: Targets,
) -> Batch:
    """Run a live backbone on one padded batch of token ids, with gradients off, and return what a network sees."""
    ids, mask = padded(source)
    first = "decoder" if model.config.model_type in DECODERS else "encoder"
    inputs, masks = {"input_ids": ids, "attention_mask": mask}, {first: mask}
    stacks = {first: model.get_encoder() if decoder is not None else model.base_model}
    if decoder is not None:
        inputs["decoder_input_ids"], inputs["decoder_attention_mask"] = padded(decoder)
        masks["decoder"] = inputs["decoder_attention_mask"]
        stacks["decoder"] = model.get_decoder()
    elif token_type is not None:
        inputs["token_type_ids"] = padded(token_type)[0]
    last: dict[str, Tensor] = {}
    blocks = {name: last_block(stack) for name, stack in stacks.items()}
    hooks = [
        block.register_forward_hook(lambda _, given, out, name=name: last.update({name: first_tensor(out)}))
        for name, block in blocks.items()
    ]
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True, output_attentions=True)
    for hook in hooks:
        hook.remove()
    made = {}
    for name in stacks:
        prefix = f"{name}_" if decoder is not None else ""
        hidden, own = out[f"{prefix}hidden_states"], out[f"{prefix}attentions"]
        cross = out.cross_attentions if decoder is not None and name == "decoder" else None
        keep = masks[name].bool()
        states = torch.stack([state * keep[..., None] for state in hidden]).float()
        made[name] = ReferenceStack(
            name,
            states / (states.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt(),
            weights(own, attention, keep, keep),
            None if cross is None else weights(cross, attention, keep, masks["encoder"].bool()),
            keep,
            tuple(range(1, len(hidden))),
            caught=torch.cat([states[:-1], (last[name] * keep[..., None]).float()[None]]),
        )
        final = states[-1]
    return Batch(made, final, targets)


@torch.no_grad()
def label_log_probabilities(model: Any, source: list[int], labels: list[list[int]], start: int) -> list[float]:
    """Constrained decoding the long way: each label's whole sequence, softmax over the tokens that may follow."""
    found = []
    for label in labels:
        decoder = torch.tensor([[start, *label[:-1]]])
        out = model(input_ids=torch.tensor([source]), decoder_input_ids=decoder, use_cache=False)
        total = 0.0
        for depth in range(len(label)):
            allowed = sorted({ids[depth] for ids in labels if len(ids) > depth and ids[:depth] == label[:depth]})
            logp = out.logits[0, depth, allowed].double().log_softmax(0)
            total += float(logp[allowed.index(label[depth])])
        found.append(total)
    return found


def weights(layers: Sequence[Tensor], attention: str, to: Tensor, source: Tensor) -> Tensor | None:
    """Return attention weights [L, (H,) B, to, from], zero in padding; means over heads by another sum."""
    if attention == "none":
        return None
    keep = (to[:, None, :, None] & source[:, None, None, :]).float()
    kept = [layer.float() * keep for layer in layers]
    return torch.stack([one.mean(1) if attention == "mean" else one.transpose(0, 1) for one in kept])


def last_block(stack: Any) -> Any:
    """Return the last block of a T5's stack, a BERT, a Llama or a GPT-2."""
    for blocks in ("block", "layers", "h"):
        if hasattr(stack, blocks):
            return getattr(stack, blocks)[-1]
    return stack.encoder.layer[-1]


def first_tensor(out: Any) -> Tensor:
    """Return a block's hidden states."""
    return out if isinstance(out, Tensor) else out[0]


def padded(sequences: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return (values, mask), [B, longest] int64 each."""
    longest = max(map(len, sequences))
    values = torch.tensor([[*row.tolist(), *[0] * (longest - len(row))] for row in sequences])
    return values, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in sequences])
