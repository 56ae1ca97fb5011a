"""Llama, SmolLM, Mistral, Qwen2 and Qwen3: one causal stack over a prompt and the path of its label, with an LM head.

A row's positions are the tokens of its prompt, then the nodes of its label trie below the root. The root is the last
token of the prompt: its state scores the first token of a label.
"""

import itertools
from typing import Any

import numpy as np
import transformers

from read_cache.backbones.base import Backbone, Block, Nodes, Source, Trace, run_stack
from read_cache.backbones.tokens import TokenBatch, additive_mask, attended_positions
from read_cache.errors import UserError
from read_cache.store.spec import BlockSpec, StackSpec
from read_cache.tasks import Task

ANCHOR = ":"
"""A label is tokenized after this text, as it follows a prompt, and the anchor's tokens are removed again."""


class Llama(Backbone):
    """A decoder-only model whose last norm is an RMS norm."""

    family = "llama"
    language_model = True
    auto = transformers.AutoModelForCausalLM
    has_rms_norm = True
    """The norm after the last block has a weight alone, so that it can be undone."""

    @property
    def stacks(self) -> tuple[StackSpec, ...]:
        config = self.config
        return (
            StackSpec(
                name="decoder",
                layers=config.num_hidden_layers,
                width=config.hidden_size,
                heads=config.num_attention_heads,
                causal=True,
                final_norm=self.has_rms_norm,
                block=self.block,
            ),
        )

    @property
    def block(self) -> BlockSpec:
        config = self.config
        return BlockSpec(
            head_size=getattr(config, "head_dim", None) or 0,
            key_value_heads=config.num_key_value_heads,
            feed_forward=config.intermediate_size,
            rotary_base=config.rope_parameters["rope_theta"],
        )

    def blocks(self) -> dict[str, list[Block]]:
        layers: Any = self.module.base_model.layers  # type: ignore[union-attr]
        return {"decoder": [Block(layer, layer.self_attn.o_proj, layer.mlp.down_proj) for layer in layers]}

    @property
    def final_norms(self) -> dict[str, Any]:
        return {"decoder": self.module.base_model.norm} if self.has_rms_norm else {}

    # Prompts and labels

    def read(self, task: Task) -> Task:
        return task

    def texts(self, task: Task, row: dict[str, Any], where: str) -> tuple[str, ...]:
        """Return the prompt up to and including the row's last text, and the rest of it. Raises UserError."""
        head, brace, tail = (task.prompt or task.template).rpartition("}")
        return (head + brace).format(**task.texts(row, where)), tail.format()

    def shown(self, texts: tuple[str, ...]) -> str:
        return "".join(texts)

    def tokenize(self, texts: list[tuple[str, ...]], limit: int) -> list[Source]:
        """Return the tokens of each prompt, cut to at most `limit` before its constant end."""
        if limit >= self.config.max_position_embeddings:
            raise UserError(
                f"the limit of {limit} tokens leaves no room for a label in the {self.config.max_position_embeddings} "
                f"positions of model {self.name}: lower max_source_length"
            )
        sources = []
        for (head, tail), ids in zip(texts, self._tokens(["".join(text) for text in texts]), strict=True):
            if cut := len(ids) > limit:
                end = self._after_anchor(tail) if tail else []
                if len(end) >= limit:
                    raise UserError(f"the prompt's end {tail!r} has {len(end)} tokens: raise max_source_length")
                ids = self._tokens([head])[0][: limit - len(end)] + end
            sources.append(Source(np.array(ids, dtype=np.int32), cut=cut))
        return sources

    def label_ids(self, task: Task) -> tuple[tuple[int, ...], ...]:
        """Return the token ids of each label's word; an end token follows if one word begins another."""
        words = [self._after_anchor(f" {word}") for word in task.words or task.labels]
        if any(a == b[: len(a)] for a, b in itertools.permutations(words, 2)):
            words = [[*ids, self._end] for ids in words]
        return tuple(tuple(ids) for ids in words)

    def target_ids(self, texts: list[str]) -> list[list[int]]:
        return [[*self._after_anchor(f" {text}"), self._end] for text in texts]

    def arrange(self, source: Source, nodes: Nodes | None) -> dict[str, dict[str, np.ndarray]]:
        """Return one row's values: the prompt's chain, whose last position is the root of the nodes."""
        before = len(source.ids) - 1
        chain = np.arange(-1, before, dtype=np.int32)
        if nodes is None:
            return {"decoder": {"token": source.ids, "parent": chain}}
        outside = np.full(before, -1, dtype=np.int32)
        values = {
            "token": np.concatenate([source.ids, nodes.token[1:]]),
            "parent": np.concatenate([chain, nodes.parent[1:] + before]),
            "trie": np.concatenate([outside, nodes.trie]),
            "target": np.concatenate([outside, nodes.target]),
        }
        return {"decoder": {name: array.astype(np.int32) for name, array in values.items()}}

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        """Tokens of prompts, with the special tokens that the tokenizer puts before a text."""
        end = self.tokenizer.eos_token_id
        ids = self.tokenizer(texts, verbose=False)["input_ids"]
        return [tokens[:-1] if len(tokens) > 1 and tokens[-1] == end else tokens for tokens in ids]

    def _after_anchor(self, text: str) -> list[int]:
        anchor, whole = self.tokenizer([ANCHOR, ANCHOR + text], add_special_tokens=False, verbose=False)["input_ids"]
        if whole[: len(anchor)] != anchor or len(whole) == len(anchor):
            raise UserError(f"model {self.name}: its tokenizer joins {text!r} with the text before it")
        return whole[len(anchor) :]

    @property
    def _end(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"model {self.name}: its tokenizer has no end token (eos_token)")
        return int(self.tokenizer.eos_token_id)

    # The forward pass

    def forward(self, tokens: TokenBatch, attention: bool = False, states: bool = True) -> Trace:
        """Run one padded batch; every position attends to its ancestors, so a tree of labels is one sequence."""
        source = tokens.stacks["decoder"]
        attended = attended_positions(source)
        trace = run_stack(
            self.module.base_model,
            self.final_norms.get("decoder"),
            attention,
            states,
            input_ids=source.ids,
            attention_mask=additive_mask(attended, self.module.dtype),  # type: ignore[arg-type]
            position_ids=attended.sum(-1) - 1,
            use_cache=False,
        )
        return {"decoder": trace}
