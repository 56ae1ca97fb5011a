"""Memory and operations of one batch at the sizes of published T5s, computed without weights, data or an accelerator.

Methods and networks run on fake tensors, which have shapes and no values. What is counted is exact for this package on
a processor; time and energy cannot be computed.
"""

import weakref
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSeq2SeqLM, T5Config

from read_cache.backbones import StackTokens, TokenBatch, Trace
from read_cache.backbones.t5 import T5
from read_cache.loader.batch import Batch, Positions, StackBatch, Targets
from read_cache.methods.base import METHODS, LiveBatch, LiveMethod, find_method
from read_cache.networks.base import NETWORKS, NetworkShape, SideNetwork
from read_cache.scoring.heads import TrieHead
from read_cache.settings import Record
from read_cache.store.schema import Format
from read_cache.tasks import find_task
from read_cache.training.learner import Candidate
from read_cache.training.step_cost import kept_bytes, step_bytes
from read_cache.trie import LabelTrie

Labels = tuple[tuple[int, ...], ...]
SIZES = {
    "T5-small": (512, 64, 2048, 8, 6),
    "T5-base": (768, 64, 3072, 12, 12),
    "T5-large": (1024, 64, 4096, 16, 24),
    "T5-3B": (1024, 128, 16384, 32, 24),
}
"""By name: d_model, d_kv, d_ff, heads, and layers of each stack. All have 32,128 tokens and a tied head."""
SHOWN: Mapping[str, tuple[str, dict[str, Any]]] = {
    "READ": ("read", {"hidden": 256, "initial_state": "zero", "standardize": False}),
    "LST": ("ladder", {}),
    "Adapter": ("adapter", {"bottleneck": 32}),
    "LoRA": ("lora", {"rank": 8}),
    "Prompt": ("prompt", {"virtual_tokens": 20}),
    "Bias": ("bitfit", {"linears": "attention"}),
    "Full": ("full", {}),
}
"""Methods in the order of the paper's Table 3, with settings that have the numbers of parameters of its Table 1."""
ROWS, SOURCE, LABELS = 48, 128, ((3, 1), (4, 1), (5, 1))
"""The batch: rows, tokens of each, and the token ids of three labels, as MNLI has them. No row is padded."""


class Computed(Record):
    """Counts of one method and backbone on one batch. Weights and activations are in float32."""

    parameters: int
    """Parameters that train."""
    inference_bytes: int
    """All weights of the backbone and the method, and the most bytes of activations at any time of a forward pass."""
    kept_bytes: int
    """Bytes that backward keeps of the batch, as `training.step_cost` counts them."""
    training_bytes: int
    """All weights, the gradients and two states of AdamW of those that train, and `kept_bytes`."""
    cached_bytes: int | None
    """`training_bytes` without the backbone's weights. None for a method that does not train from the store."""
    flops: int
    """Operations of the matrix products of a forward pass, those of the backbone included."""


class ShapedT5(T5):
    """A T5 of some shape, whose weights have no values."""

    def __init__(self, name: str, config: Any) -> None:
        self.name, self.config, self.device, self.dtype = name, config, "meta", "fp32"
        self.revision = self.digest = ""
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)

    def load_module(self) -> nn.Module:
        with torch.device("meta"):
            return AutoModelForSeq2SeqLM.from_config(self.config, attn_implementation="eager").float().eval()

    def make_fake(self, network: nn.Module) -> None:
        """Move the weights of the backbone and a network from the meta device to fake tensors of the processor.

        Fake tensors go through all of a step, but methods cannot be built of them.
        """
        parts = [*nn.ModuleList([self.module, network]).modules()]
        with self.mode:
            for part in parts:
                part.to_empty(device="cpu", recurse=False)
            self.module.tie_weights()  # type: ignore[operator]
        self.device = "cpu"

    def head_scale(self) -> float:
        """Return the factor of a tied head's input; it cannot be measured without values."""
        return float(self.config.d_model**-0.5)

    def forward(self, tokens: TokenBatch, attention: bool = False, states: bool = True) -> Trace:
        with self.mode:  # here alone: the seeds of dropout are drawn outside
            return super().forward(tokens, attention, states)


def published(size: str) -> ShapedT5:
    width, head_size, feed_forward, heads, layers = SIZES[size]
    shape = {"d_model": width, "d_kv": head_size, "d_ff": feed_forward, "num_heads": heads, "num_layers": layers}
    return ShapedT5(size, T5Config(**shape, vocab_size=32_128))


def compute(
    backbone: ShapedT5,
    kind: str,
    settings: Mapping[str, Any],
    shape: tuple[int, int] = (ROWS, SOURCE),
    labels: Labels = LABELS,
) -> Computed:
    """Return the counts of a method beside a new backbone, on a batch of `shape` (rows, tokens)."""
    network = build(backbone, kind, settings)
    backbone.make_fake(network)
    with backbone.mode:
        batch = label_batch(*shape, labels)
    return count(backbone, network, batch, labels, backbone.mode)


def build(backbone: T5, kind: str, settings: Mapping[str, Any]) -> LiveMethod | SideNetwork:
    """Return a method in the backbone, or a network beside it."""
    if kind in METHODS:
        return find_method(kind)(METHODS[kind].Config(**settings), backbone)
    config = NETWORKS[kind].resolve(NETWORKS[kind].Config(**settings), store_format(backbone))
    with torch.device(backbone.device):
        return NETWORKS[kind](config, NetworkShape.of(backbone.spec, store_format(backbone)))


def count(
    backbone: T5, network: LiveMethod | SideNetwork, batch: LiveBatch, labels: Labels, mode: AbstractContextManager[Any]
) -> Computed:
    """Return the counts of a method or network on one batch; `mode` is the fake mode of the tensors, if they are."""
    trie, cached = LabelTrie(labels), isinstance(network, SideNetwork)
    inputs: Any = batch
    with mode:
        source = network if isinstance(network, LiveMethod) else backbone
        rows = source.head_rows(torch.from_numpy(trie.tokens))
        model = Candidate(network, TrieHead(rows, trie, find_task("mnli")))
    weights = {
        weight.untyped_storage()._cdata: weight.nbytes
        for part in (backbone.module, model)
        for weight in part.parameters()
    }
    with mode, torch.no_grad(), FlopCounterMode(display=False) as counter, PeakBytes(weights) as peak:
        if isinstance(network, SideNetwork):
            attention = network.needs(network.config).attention != "none"
            inputs = cached_batch(backbone, backbone.forward(batch.tokens, attention), batch)
        model(inputs)
    kept = kept_bytes(model, inputs, torch.Generator().manual_seed(0))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    step = step_bytes(trained, kept)
    return Computed(
        parameters=sum(weight.numel() for weight in trained),
        inference_bytes=sum(weights.values()) + peak.most,
        kept_bytes=kept,
        training_bytes=sum(weights.values()) + step,
        cached_bytes=sum(weight.nbytes for weight in trained) + step if cached else None,
        flops=counter.get_total_flops(),
    )


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live."""

    def __init__(self, known: Collection[int]) -> None:
        """`known`: addresses of storages that do not count."""
        super().__init__()
        self.alive, self.now, self.most = set(known), 0, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what is new in its output."""
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and (address := tensor.untyped_storage()._cdata) not in self.alive:
                self.alive.add(address)
                self.now += tensor.untyped_storage().nbytes()
                weakref.finalize(tensor.untyped_storage(), self._free, address, tensor.untyped_storage().nbytes())
        self.most = max(self.most, self.now)
        return out

    def _free(self, address: int, nbytes: int) -> None:
        self.alive.remove(address)
        self.now -= nbytes


def label_batch(rows: int, source: int, labels: Labels) -> LiveBatch:
    """Return a training batch in which every row has the longest label's path; within a fake mode it has no values."""
    path = max(LabelTrie(labels).paths, key=len)
    shapes = {"encoder": (rows, source), "decoder": (rows, len(path))}
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    parents = {"encoder": None, "decoder": [np.arange(-1, len(path) - 1)] * rows}
    stacks = {
        name: StackTokens(torch.zeros(mask.shape, dtype=torch.int64), mask, parent=parents[name])
        for name, mask in masks.items()
    }
    nodes, tokens = torch.tensor(path).T[:, None].repeat(1, rows, 1)
    positions = {name: Positions(mask) for name, mask in masks.items()}
    label, score = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows)
    return LiveBatch(TokenBatch(stacks), Targets(np.arange(rows), label, score, nodes, tokens, positions))


def store_format(backbone: T5) -> Format:
    """Return the format of a store in float32."""
    layers = {stack.name: tuple(range(1, stack.layers + 1)) for stack in backbone.stacks}
    return Format(dtype="fp32", attention="mean", attention_dtype="fp32", rank=0, layers=layers)


def cached_batch(backbone: T5, trace: Trace, batch: LiveBatch) -> Batch:
    """Return the batch of activations that a store would give."""
    stacks = {}
    for name, outputs in trace.items():
        self_attention, cross_attention = (
            torch.stack([layer.mean(1) for layer in weights]) if weights else None
            for weights in (outputs.self_attention, outputs.cross_attention)
        )
        stacks[name] = StackBatch(
            name,
            torch.stack(outputs.hidden),
            self_attention,
            cross_attention,
            real=batch.tokens.stacks[name].mask,
            layers=store_format(backbone).layers[name],
            raw=True,
            raw_rms=torch.ones(outputs.hidden[0].shape[:2]),
            norm_weight=backbone.final_norm()[name],
            parent=None,
        )
    return Batch(stacks, stacks["decoder"].values[-1], batch.targets)
