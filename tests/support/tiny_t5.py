"""Tiny random T5 backbones of every kind, each made on first use, once a process."""

import atexit
import functools
import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from read_cache.data import BUNDLED_BACKBONE, bundled_backbone

SHAPE = {
    "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "dropout_rate": 0.1,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
KINDS = ("tied", "untied", "mt5", "umt5", "byt5")
"""T5 v1.0 (tied, scaled head), v1.1 (gated, untied), mT5, UMT5 and ByT5."""
UNTIED = ("untied", "mt5", "byt5")
_HOME = tempfile.TemporaryDirectory(prefix="read-cache-t5-")
atexit.register(_HOME.cleanup)


class Models(dict[str, Path]):
    """Folders by kind; a kind is made when it is first asked for."""

    def __missing__(self, kind: str) -> Path:
        if kind not in KINDS:
            raise KeyError(kind)
        self[kind] = t5_folder(kind)
        return self[kind]


@functools.cache
def t5_folder(kind: str) -> Path:
    """Return the folder of a tiny T5. Do not change it."""
    torch.manual_seed(7)
    pieces = AutoTokenizer.from_pretrained(bundled_backbone(BUNDLED_BACKBONE))
    tokenizer = ByT5Tokenizer() if kind == "byt5" else pieces
    size = SHAPE | {"vocab_size": 384 if kind == "byt5" else 8128}
    if kind == "tied":
        model = T5ForConditionalGeneration(T5Config(**size))
    elif kind in ("untied", "byt5"):
        config = T5Config(**size, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
        model = T5ForConditionalGeneration(config)
    elif kind == "mt5":
        model = MT5ForConditionalGeneration(MT5Config(**size, tie_word_embeddings=False))
    else:
        model = UMT5ForConditionalGeneration(UMT5Config(**size))
    if kind in UNTIED:  # their checkpoints hold a head of its own
        model.lm_head.weight = torch.nn.Parameter(torch.randn(size["vocab_size"], 32) * 0.3)
    with torch.no_grad():  # larger weights than the default start, so that attention is far from uniform
        for name, parameter in model.named_parameters():
            if name.endswith(("q.weight", "k.weight", "relative_attention_bias.weight")):
                parameter.mul_(4)
    folder = Path(_HOME.name) / kind
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
