"""Inputs of attached networks: checked token ids, masks and rows, and the decoder positions of label tries."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones import Backbone, StackTokens
from read_cache.backbones.base import Nodes
from read_cache.errors import UserError
from read_cache.tasks import Task
from read_cache.trie import LabelTrie

Row = str | Mapping[str, Any]
"""A task's fields by name, or their texts, separated by tabs."""
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def source_tokens(
    backbone: Backbone, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None
) -> StackTokens:
    """Return the tokens of the first stack on the backbone's device. Raises UserError.

    `attention_mask` is not 0 where a token is real; by default all are. Padding must be on the right for an
    encoder-only backbone; it may be on either side for the others.
    """
    ids, encoder_only = token_ids(backbone, "input_ids", input_ids), not backbone.language_model
    for name, values in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if values is not None and values.shape != ids.shape:
            raise UserError(f"{name} has shape {[*values.shape]}, expected {[*ids.shape]}, that of input_ids")
    mask = torch.ones_like(ids, dtype=torch.bool)
    if attention_mask is not None:
        mask = attention_mask.to(ids.device) != 0
    if encoder_only and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise UserError(f"model {backbone.name} counts positions from the first token: pad the rows on the right")
    if token_type_ids is not None:
        if not encoder_only:
            raise UserError(f"token_type_ids were given, but model {backbone.name} takes none: leave them out")
        token_type_ids = token_type_ids.to(ids.device).long()
    return StackTokens(ids, mask, token_type_ids)


def decoder_tokens(backbone: Backbone, decoder_input_ids: Tensor, rows: int) -> StackTokens:
    """Return the tokens of the decoder, all of them real, on the backbone's device. Raises UserError."""
    if len(backbone.stacks) == 1:
        raise UserError(f"decoder_input_ids were given, but model {backbone.name} has one stack: leave them out")
    ids = token_ids(backbone, "decoder_input_ids", decoder_input_ids)
    if len(ids) != rows:
        raise UserError(f"decoder_input_ids has {len(ids)} rows, expected {rows}, as many as input_ids")
    return StackTokens(ids, torch.ones_like(ids, dtype=torch.bool))


def token_ids(backbone: Backbone, name: str, ids: Tensor) -> Tensor:
    """Return token ids, int64, on the backbone's device. Raises UserError for another shape, dtype or vocabulary."""
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype not in INTEGERS or not ids.numel():
        found = f"{list(ids.shape)} {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
        raise UserError(f"{name}: found {found}, expected a tensor of integers, [rows, tokens], that is not empty")
    vocabulary = backbone.module.get_input_embeddings().num_embeddings  # type: ignore[operator]
    low, high = (int(bound) for bound in torch.aminmax(ids))
    if low < 0 or high >= vocabulary:
        raise UserError(f"{name}: found {low if low < 0 else high}, expected tokens from 0 to {vocabulary - 1}")
    return ids.to(backbone.device).long()


def row_texts(backbone: Backbone, task: Task, row: Row, where: str) -> tuple[str, ...]:
    """Return the texts that the backbone reads of a row. Raises UserError, which names the row as `where`."""
    fields = task.text_fields
    if isinstance(row, str):
        texts = row.split("\t")
        if len(texts) != len(fields):
            raise UserError(
                f"{where} has {len(texts)} text{'s' if len(texts) > 1 else ''}, task {task.name} needs {len(fields)} "
                f"({', '.join(fields)}): separate them by a tab, or give the fields by name"
            )
        row = dict(zip(fields, texts, strict=True))
    if not isinstance(row, Mapping):
        raise UserError(f"{where} is {row!r}, expected a table of the fields {', '.join(fields)}, or their texts")
    return backbone.texts(task, dict(row), where)


def label_tree(tries: Iterable[LabelTrie], start_token: int) -> tuple[Nodes, dict[tuple[int, ...], int]]:
    """Return the prefixes of some label tries as positions, each once, and the index of each prefix.

    Without tries there is the empty prefix alone, whose token is the start token.
    """
    prefixes = sorted({(), *(prefix for trie in tries for prefix in trie.prefixes)}, key=lambda ids: (len(ids), ids))
    index = {prefix: position for position, prefix in enumerate(prefixes)}
    token = np.array([prefix[-1] if prefix else start_token for prefix in prefixes], np.int32)
    parent = np.array([index[prefix[:-1]] if prefix else -1 for prefix in prefixes], np.int32)
    none = np.full_like(parent, -1)
    return Nodes(token, parent, none, none), index


def padded_left(tokens: StackTokens) -> StackTokens:
    """Return rows of tokens with their padding on the left, where it was on the right."""
    order = torch.argsort(tokens.mask.int(), dim=1, stable=True)
    return StackTokens(tokens.ids.gather(1, order), tokens.mask.gather(1, order))


def chain_parents(mask_BS: Tensor) -> list[np.ndarray]:
    """Return, by row, the position before each real one, [S] int64; -1 for the first one and for padding."""
    parents = []
    for mask in mask_BS.cpu().numpy():
        parent = np.full(len(mask), -1)
        real = np.flatnonzero(mask)
        parent[real[1:]] = real[:-1]
        parents.append(parent)
    return parents
