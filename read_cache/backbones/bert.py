"""BERT, RoBERTa and MiniLM: one stack that sees a pair of texts as its tokenizer joins them; no language model."""

import dataclasses
from typing import Any

import numpy as np
import torch
import transformers

from read_cache.backbones.base import TORCH_DTYPES, Backbone, Block, Source, Trace, run_stack
from read_cache.backbones.files import load_weights
from read_cache.backbones.tokens import TokenBatch
from read_cache.errors import UserError
from read_cache.store.spec import BlockSpec, StackSpec
from read_cache.tasks import Task


class Bert(Backbone):
    """An encoder-only model of BERT's architecture."""

    family = "bert"
    language_model = False

    @property
    def stacks(self) -> tuple[StackSpec, ...]:
        """One stack, called `encoder`; its layers end in a norm, so no norm follows the last one."""
        config = self.config
        return (
            StackSpec(
                name="encoder",
                layers=config.num_hidden_layers,
                width=config.hidden_size,
                heads=config.num_attention_heads,
                segments=True,
                post_norm=True,
                block=BlockSpec(feed_forward=config.intermediate_size),
            ),
        )

    def load_module(self) -> torch.nn.Module:
        """Load the frozen model without its pooling layer and its heads."""
        if getattr(self.config, "is_decoder", False):
            raise UserError(f"model {self.name} is a decoder (is_decoder in its config.json): expected an encoder")
        dtype = TORCH_DTYPES[self.dtype]
        return load_weights(transformers.AutoModel, self.folder, self.name, dtype, add_pooling_layer=False)

    def blocks(self) -> dict[str, list[Block]]:
        layers: Any = self.module.encoder.layer  # type: ignore[union-attr]
        return {"encoder": [Block(layer, layer.attention.output.dense, layer.output.dense) for layer in layers]}

    @property
    def positions(self) -> int:
        """The longest input; RoBERTa's position table starts after its padding token."""
        first = 0 if self.config.model_type == "bert" else self.pad_token + 1
        return int(self.config.max_position_embeddings) - first

    def texts(self, task: Task, row: dict[str, Any], where: str) -> tuple[str, ...]:
        """Return the row's one or two text fields as they are; the task's template where it has more fields."""
        values = task.texts(row, where)
        if len(values) > 2:
            return (task.template.format(**values),)
        return tuple(str(value) for value in values.values())

    def tokenize(self, texts: list[tuple[str, ...]], limit: int) -> list[Source]:
        """Return the tokens of each text or pair; of a pair that is too long, the longer text is cut first."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise UserError(f"model {self.name}: its tokenizer has no fast version, which counts the texts of a pair")
        if limit > self.positions:
            raise UserError(
                f"the limit of {limit} tokens is over the {self.positions} positions of model {self.name}: "
                "lower max_source_length"
            )
        sources = self._tokenize(texts)
        if too_long := [index for index, source in enumerate(sources) if len(source.ids) > limit]:
            cut = self._tokenize([texts[index] for index in too_long], truncation="longest_first", max_length=limit)
            for index, source in zip(too_long, cut, strict=True):
                sources[index] = dataclasses.replace(source, cut=True)
        return sources

    def _tokenize(self, texts: list[tuple[str, ...]], **options: Any) -> list[Source]:
        """Tokens of rows that have equally many texts."""
        columns = [list(column) for column in zip(*texts, strict=True)]
        encoding = self.tokenizer(*columns, verbose=False, **options)
        types = encoding.get("token_type_ids") if self.config.type_vocab_size > 1 else None
        return [
            Source(
                np.array(ids, dtype=np.int32),
                np.zeros(len(ids), np.int8) if types is None else np.array(types[row], dtype=np.int8),
                np.array([-1 if text is None else text for text in encoding.sequence_ids(row)], dtype=np.int8),
            )
            for row, ids in enumerate(encoding["input_ids"])
        ]

    def forward(self, tokens: TokenBatch, attention: bool = False, states: bool = True) -> Trace:
        source = tokens.stacks["encoder"]
        inputs = {"input_ids": source.ids, "attention_mask": source.mask.long(), "token_type_ids": source.token_type}
        return {"encoder": run_stack(self.module, None, attention, states, **inputs)}
