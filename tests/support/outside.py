"""What a user adds to read-cache from outside of it: one class for each seam."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import Field
from torch import Tensor, nn

from read_cache.backbones import StackTrace, TokenBatch, Trace
from read_cache.backbones.base import TORCH_DTYPES
from read_cache.backbones.bert import Bert
from read_cache.backbones.files import load_weights
from read_cache.engines import Engine
from read_cache.loader.batch import Batch, Statistics
from read_cache.methods.base import LiveConfig, LiveMethod
from read_cache.networks.base import Needs, NetworkSettings, NetworkShape, SideNetwork
from read_cache.scoring.heads import Head, HeadSettings, Scores
from read_cache.store.spec import StackSpec
from read_cache.tasks import Task
from support.processes import PRELOADED


class SmoothConfig(NetworkSettings):
    """Settings of the smoothing network."""

    shown = ("steps",)
    steps: int = Field(2, ge=1)
    """Times that states are averaged by the attention weights."""


class Smooth(SideNetwork):
    """y = phi_N + U relu(V x), x the standardised last raw state of the readout stack, smoothed by its attention.

    It needs all that a network can ask for: attention weights, raw states, statistics, and a context.
    """

    kind, Config = "smooth", SmoothConfig

    def __init__(self, config: SmoothConfig, shape: NetworkShape) -> None:
        super().__init__(config, shape)
        width = shape.stacks[-1].width
        self.V, self.U = nn.Linear(width, 8), nn.Linear(8, width)
        nn.init.zeros_(self.U.weight)
        nn.init.zeros_(self.U.bias)
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(width))

    @classmethod
    def needs(cls, config: Any) -> Needs:
        return Needs(attention="mean", raw=True)

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        self.mean = statistics[self.readout].mean[-1]

    def context(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {name: stack.whole_state(0).mean(1) for name, stack in batch.stacks.items() if name != self.readout}

    def corrected(self, batch: Batch, context: Any, generator: torch.Generator | None = None) -> Tensor:
        stack = batch.stacks[self.readout]
        raw = stack.raw_state(len(stack.layers))
        x = raw / (raw.square().mean(-1, keepdim=True) + 1e-6).sqrt() - self.mean
        weights = stack.attention("self_attention", torch.float32)
        for _ in range(self.config.steps):
            x = weights[-1] @ x
        for before in context.values():
            x = x + before[:, None]
        return batch.final + self.U(torch.relu(self.V(x)))


class Biases(LiveMethod):
    """BitFit: train the backbone's biases, or, in a backbone that has none, the weights of its norms."""

    kind, Config = "biases", LiveConfig

    def insert(self, module: nn.Module) -> nn.Module:
        wanted = "bias" if any(name.endswith(".bias") for name, _ in module.named_parameters()) else "norm"
        for name, weight in module.named_parameters():
            weight.requires_grad_(wanted in name.rpartition(".")[2] if wanted == "bias" else wanted in name)
        return module


class Linear(Head):
    """One linear layer over the first position."""

    def __init__(self, settings: HeadSettings, width: int, task: Task) -> None:
        super().__init__()
        self.out = nn.Linear(width, len(task.labels))

    def scores(self, y_BTD: Tensor, targets: Any, generator: torch.Generator | None = None) -> Scores:
        logp = self.out(y_BTD[:, 0]).log_softmax(-1)
        loss = -logp.gather(-1, targets.label[:, None])[:, 0]
        return Scores(logp.argmax(-1).float(), loss, torch.ones_like(loss), logp.exp())


class Processes(Engine):
    """Two workers in processes of their own; results come in the order of the items."""

    workers = 2
    started = 0

    def map(self, make_worker: Callable[[], Any], items: Sequence[Any]) -> Iterator[Any]:
        shares = [share for share in (items[number :: self.workers] for number in range(self.workers)) if share]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        Processes.started += len(shares)
        with ProcessPoolExecutor(len(shares), context) as pool:
            found = list(pool.map(work_through, [make_worker] * len(shares), shares))
        for place in range(len(items)):
            yield found[place % self.workers][place // self.workers]


def work_through(make_worker: Callable[[], Any], share: Sequence[Any]) -> list[Any]:
    """What one process does."""
    torch.set_num_threads(1)
    with make_worker() as work:
        return [work(item) for item in share]


class DistilBert(Bert):
    """DistilBERT: BERT's stack without token types."""

    family = "distilbert"

    @property
    def stacks(self) -> tuple[StackSpec, ...]:
        c = self.config
        return (
            StackSpec(name="encoder", layers=c.n_layers, width=c.dim, heads=c.n_heads, segments=True, post_norm=True),
        )

    @property
    def positions(self) -> int:
        return int(self.config.max_position_embeddings)

    def load_module(self) -> nn.Module:
        return load_weights(transformers.AutoModel, self.folder, self.name, TORCH_DTYPES[self.dtype])

    def _tokenize(self, texts: list[tuple[str, ...]], **options: Any) -> list[Any]:
        self.config.type_vocab_size = 1
        return super()._tokenize(texts, **options)

    def forward(self, tokens: TokenBatch, attention: bool = False, states: bool = True) -> Trace:
        source = tokens.stacks["encoder"]
        out = self.module(
            source.ids, source.mask.long(), output_hidden_states=states, output_attentions=attention, return_dict=True
        )
        hidden = list(out.hidden_states) if states else [out.last_hidden_state]
        return {"encoder": StackTrace(hidden, list(out.attentions) if attention else None)}


def distilbert_folder(folder: Path) -> Path:
    """Write a tiny random DistilBERT with a tokenizer."""
    from support.backbones import wordpiece

    tokenizer = wordpiece()
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64
    )
    transformers.DistilBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
