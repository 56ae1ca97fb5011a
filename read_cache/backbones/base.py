"""The interface of a backbone: all that extraction, live methods and attachment use of a model.

Shape letters: B example, S position of a stack, T position of the readout stack, H head, D width, L layer, C token.
"""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from read_cache.backbones.files import digest_model, load_tokenizer, load_weights, quietly, weight_files
from read_cache.backbones.tokens import StackTokens, TokenBatch
from read_cache.errors import UserError
from read_cache.store.schema import ComputeDtype
from read_cache.store.spec import BackboneSpec, StackSpec
from read_cache.tasks import Task

TORCH_DTYPES: dict[ComputeDtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class StackTrace:
    """The outputs of one stack for a padded batch."""

    hidden: list[Tensor]
    """Embedding output, then each layer's output, [B, S, D] each; the last is after the final norm if there is one."""
    self_attention: list[Tensor] | None = None
    """By layer: [B, H, S, S] attention weights after the softmax, [to, from]."""
    cross_attention: list[Tensor] | None = None
    """By layer: [B, H, T, S] attention weights to the stack that this one attends to."""
    raw_last: Tensor | None = None
    """[B, S, D]: the last block's output before the final norm; None where no norm follows."""


Trace = dict[str, StackTrace]
"""Outputs by stack."""


@dataclasses.dataclass(frozen=True)
class Block:
    """One block, and the linear layers whose outputs its sublayers add to the residual stream (after dropout)."""

    module: torch.nn.Module
    attention: torch.nn.Module
    """Output projection of the self-attention."""
    feed_forward: torch.nn.Module
    """Second linear layer of the feed-forward sublayer."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The tokens of one row's texts."""

    ids: np.ndarray
    """[n] int32."""
    token_type: np.ndarray | None = None
    """[n] int8."""
    segment: np.ndarray | None = None
    """[n] int8: the number of the text a token belongs to, from 0; -1 for special tokens."""
    cut: bool = False
    """The texts were longer than the limit."""


@dataclasses.dataclass(frozen=True)
class Nodes:
    """The positions of one row's label or target in the readout stack, each [nodes] int32; see `store/schema.py`."""

    token: np.ndarray
    parent: np.ndarray
    trie: np.ndarray
    target: np.ndarray


class Backbone(abc.ABC):
    """A frozen model in evaluation mode. Weights load on first use; configuration, tokenizer and digest need none."""

    family: str
    language_model: bool
    """The family has a head that scores the tokens of labels."""
    auto: Any
    """Class of transformers that loads the model."""

    def __init__(
        self, name: str, folder: Path, revision: str, config: Any, dtype: ComputeDtype = "fp32", device: str = "cpu"
    ) -> None:
        self.name, self.folder, self.revision = name, folder, revision
        self.config, self.dtype, self.device = config, dtype, device
        weight_files(folder, name)

    # What a family defines

    @property
    @abc.abstractmethod
    def stacks(self) -> tuple[StackSpec, ...]:
        """The stacks, in the order in which they run; the last one is the readout."""

    def load_module(self) -> torch.nn.Module:
        """Load the frozen model; by default with the class `auto`."""
        return load_weights(self.auto, self.folder, self.name, TORCH_DTYPES[self.dtype])

    @abc.abstractmethod
    def tokenize(self, texts: list[tuple[str, ...]], limit: int) -> list[Source]:
        """Return the tokens of each row's texts, cut to at most `limit`. Raises UserError for an unusable limit."""

    @abc.abstractmethod
    def forward(self, tokens: TokenBatch, attention: bool = False, states: bool = True) -> Trace:
        """Run one padded batch through every stack; differentiable where gradients are enabled.

        Without `attention` the trace has no attention weights; without `states`, `hidden` holds the last state alone.
        """

    def texts(self, task: Task, row: dict[str, Any], where: str) -> tuple[str, ...]:
        """Return the texts that this family reads of a row: the task's template, filled in. Raises UserError."""
        return (task.template.format(**task.texts(row, where)),)

    def shown(self, texts: tuple[str, ...]) -> str:
        """Return the texts of a row as one text for people, with tabs between them."""
        return "\t".join(texts)

    def read(self, task: Task) -> Task:
        """Return the task as this family reads it: only decoder-only models use its prompt and label words."""
        return task.replaced(prompt="", words=())

    def label_ids(self, task: Task) -> tuple[tuple[int, ...], ...]:
        """Return each label's token ids, its end token last; () for a family without a language model."""
        return ()

    def target_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of open targets, end token last. Raises UserError without a language model."""
        raise self._no_head("cannot be trained on an open target")

    def arrange(self, source: Source, nodes: Nodes | None) -> dict[str, dict[str, np.ndarray]]:
        """Return one row's values by stack, then by the last part of the plan array's name.

        The source goes to the first stack, the nodes to the readout stack.
        """
        arrays = {"token": source.ids, "token_type": source.token_type, "segment": source.segment}
        stacks = {self.stacks[0].name: {name: values for name, values in arrays.items() if values is not None}}
        if nodes is not None:
            stacks[self.stacks[-1].name] = {
                field.name: getattr(nodes, field.name) for field in dataclasses.fields(Nodes)
            }
        return stacks

    def blocks(self) -> dict[str, list[Block]]:
        """Return the blocks of the module by stack, in the order in which they run. Raises UserError without them."""
        raise UserError(f"model {self.name} is a {self.family}, whose blocks are unknown: Backbone.blocks returns them")

    @property
    def positions(self) -> int | None:
        """The longest sequence in tokens, that of the label included; None without a limit."""
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def start_token(self) -> int:
        """The token at the root of the label trie."""
        return 0

    @property
    def pad_token(self) -> int:
        """The token at padded positions."""
        return int(self.config.pad_token_id or 0)

    def head_scale(self) -> float:
        """Return the factor that the model applies to its last state before the output head; by default 1.

        Raises UserError for a family without a language model.
        """
        if not self.language_model:
            raise self._no_head("has no output head")
        return 1.0

    @property
    def final_norms(self) -> dict[str, Any]:
        """By stack that has one: the RMS norm after the last block, which has a weight alone and can be undone."""
        return {}

    def final(self, tokens: TokenBatch) -> Tensor:
        """Return the readout stack's last hidden state alone, [B, T, D]; differentiable as `forward` is."""
        return self.forward(tokens, states=False)[self.stacks[-1].name].hidden[-1]

    # What all families share

    @torch.no_grad()
    def head_rows(self, token_ids: Tensor) -> Tensor:
        """Return [C, D] float32 on the CPU: the output head's rows for `token_ids`, times the scale of its input.

        Raises UserError for a family without a language model.
        """
        scale = self.head_scale()
        weight = self.module.get_output_embeddings().weight  # type: ignore[operator]
        return weight[token_ids.to(weight.device)].float().cpu() * scale

    def final_norm(self) -> dict[str, Tensor]:
        """Return the final norm's weight by stack, [D] float32 on the CPU, for stacks that have one."""
        return {name: norm.weight.detach().float().cpu() for name, norm in self.final_norms.items()}

    @property
    def final_norm_epsilon(self) -> float:
        """The final norms' epsilon, added to the mean square."""
        return float(getattr(self.config, "rms_norm_eps", None) or self.config.layer_norm_epsilon)

    @cached_property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        return load_tokenizer(self.folder, self.name)

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 over the tokenizer's class and vocabulary."""
        text = json.dumps([type(self.tokenizer).__name__, sorted(self.tokenizer.get_vocab().items())])
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """sha256 over the configuration and every weights file."""
        return digest_model(self.folder, self.name)

    @property
    def made_with(self) -> dict[str, str]:
        """Return the versions of the libraries that compute the states; a manifest records them."""
        return {"torch": torch.__version__, "transformers": transformers.__version__}

    @cached_property
    def module(self) -> torch.nn.Module:
        """The model on its device. Raises UserError where it cannot be loaded."""
        module = self.load_module()
        with quietly(f"model {self.name}: it cannot be put on {self.device}"):
            return module.to(self.device)

    @cached_property
    def spec(self) -> BackboneSpec:
        """The backbone as stores and networks remember it. Loads the weights, to count them."""
        return BackboneSpec(
            name=self.name,
            revision=self.revision,
            digest=self.digest,
            family=self.family,
            parameters=sum(parameter.numel() for parameter in self.module.parameters()),
            stacks=self.stacks,
            language_model=self.language_model,
        )

    def pad(self, sources: list[Source], nodes: list[Nodes] | None = None) -> TokenBatch:
        """Return the padded batch of some rows, on the backbone's device."""
        rows = [self.arrange(source, nodes[index] if nodes else None) for index, source in enumerate(sources)]
        stacks = {}
        for stack, arrays in rows[0].items():
            token, token_type, parent = (
                [row[stack][name] for row in rows] if name in arrays else None
                for name in ("token", "token_type", "parent")
            )
            assert token is not None
            stacks[stack] = StackTokens.pad(token, token_type, parent, self.pad_token)
        return TokenBatch(stacks).to(self.device)

    def batch(self, split: str, plan: Mapping[str, np.ndarray], rows: Sequence[int]) -> TokenBatch:
        """Return the padded batch of some rows of a store's split, from its plan arrays, on the backbone's device."""
        return TokenBatch.of_plan(self.spec, plan, rows, self.pad_token).to(self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments alone: another process loads its own copy of the weights."""
        return type(self), (self.name, self.folder, self.revision, self.config, self.dtype, self.device)

    def _no_head(self, problem: str) -> UserError:
        return UserError(f"model {self.name} is a {self.family} without a language model: it {problem}")


def run_stack(stack: Any, norm: torch.nn.Module | None, attention: bool, states: bool, **inputs: Any) -> StackTrace:
    """Run one stack of a model of transformers and return its trace, rows as the stack was given them.

    `norm` is the norm after the last block, whose input is the raw output of that block; None leaves it out.
    """
    raw: list[Tensor] = []
    hook = None if norm is None else norm.register_forward_pre_hook(lambda norm, given: raw.append(given[0]))
    try:
        out = stack(output_hidden_states=states, output_attentions=attention, **inputs)
    finally:
        if hook is not None:
            hook.remove()
    return StackTrace(
        hidden=list(out.hidden_states) if states else [out.last_hidden_state],
        self_attention=list(out.attentions) if attention else None,
        cross_attention=list(out.cross_attentions) if attention and "encoder_hidden_states" in inputs else None,
        raw_last=raw[0] if raw else None,
    )
