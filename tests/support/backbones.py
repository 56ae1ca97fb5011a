"""Tiny random encoder-only and decoder-only backbones with tokenizers of their own, made once a session."""

import atexit
import functools
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from support.tiny_t5 import t5_folder

BERT_KINDS = ("bert", "roberta")
WORDS = "the old river runs past a quiet town where many people live and work near sea un ##known ##s ##ing . , b c"
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
}  # fmt: skip
_HOME = tempfile.TemporaryDirectory(prefix="read-cache-backbones-")
atexit.register(_HOME.cleanup)


@functools.cache
def bert_folder(kind: str) -> Path:
    """Return the folder of a tiny BERT (saved with its language model's head) or RoBERTa. Do not change it."""
    folder = Path(_HOME.name) / kind
    torch.manual_seed(7)
    if kind == "bert":
        tokenizer = wordpiece()
        model = BertForMaskedLM(BertConfig(**SHAPE, vocab_size=len(tokenizer), max_position_embeddings=64))
    else:
        tokenizer = byte_level()
        size = {"vocab_size": len(tokenizer), "max_position_embeddings": 66, "type_vocab_size": 1}
        model = RobertaModel(RobertaConfig(**SHAPE, **size, pad_token_id=1, bos_token_id=0, eos_token_id=2))
    with torch.no_grad():  # larger weights than the default start, so that attention is far from uniform
        for name, parameter in model.named_parameters():
            if "query" in name or "key" in name or "embeddings" in name:
                parameter.mul_(12 if name.endswith("weight") and "LayerNorm" not in name else 1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


DECODERS: dict[str, tuple[type, type]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
}


@functools.cache
def decoder_folder(kind: str) -> Path:
    """Return the folder of a tiny decoder-only model, a key of DECODERS. Do not change it."""
    folder = Path(_HOME.name) / kind
    torch.manual_seed(11)
    make_config, make_model = DECODERS[kind]
    tokenizer = causal_tokenizer(start=kind == "llama")
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    if kind != "gpt2":
        shape |= {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8}
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 192, "tie_word_embeddings": kind != "mistral"}
    model = make_model(make_config(**shape, **size, bos_token_id=0, eos_token_id=1, pad_token_id=1))
    with torch.no_grad():  # larger weights than the default start, so that attention is far from uniform
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "lm_head" not in name:
                parameter.mul_(8)
            elif "norm" in name or "ln_f" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def folder_of(kind: str) -> Path:
    """Return the folder of a tiny backbone of any family. Do not change it."""
    if kind in DECODERS:
        return decoder_folder(kind)
    return bert_folder(kind) if kind in BERT_KINDS else t5_folder(kind)


def causal_tokenizer(start: bool) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with a few merges; with `start`, <s> stands before every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", "y"), ("\u0120", "n"), ("\u0120n", "o"), ("e", "s"), ("\u0120y", "es"), ("t", "h")]
    tokens = ["<s>", "</s>", *alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def wordpiece() -> PreTrainedTokenizerFast:
    """Return BERT's kind of tokenizer: WordPiece, [CLS] a [SEP] b [SEP], token types 0 and 1."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *WORDS.split(" ")])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def byte_level() -> PreTrainedTokenizerFast:
    """Return RoBERTa's kind of tokenizer: byte-level BPE without merges, <s> a </s></s> b </s>, no token types."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        cls_token="<s>", sep_token="</s>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
