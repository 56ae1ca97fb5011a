"""A model by its configuration alone: its weights are neither read nor fetched."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers

from read_cache.backbones.t5 import TORCH_DTYPES, Backbone, find_model, has_vocabulary, load_config, load_tokenizer
from read_cache.store.manifest import BackboneInfo
from read_cache.store.schema import ComputeDtype

CONFIGURATION = ["*.json", "*.model", "*.txt"]
"""What is fetched of a model of the hub: everything but weights."""
VOCABULARY = 32128
"""Rows of the embeddings of every T5 here: its 32,000 pieces and 100 sentinels, padded."""
SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "t5-small": (512, 6, 8, 64, 2048),
    "t5-base": (768, 12, 12, 64, 3072),
    "t5-large": (1024, 24, 16, 64, 4096),
    "t5-3b": (1024, 24, 32, 128, 16384),
    "t5-11b": (1024, 24, 128, 128, 65536),
    "t5-v1_1-small": (512, 8, 6, 64, 1024),
    "t5-v1_1-base": (768, 12, 12, 64, 2048),
    "t5-v1_1-large": (1024, 24, 16, 64, 2816),
    "t5-v1_1-xl": (2048, 24, 32, 64, 5120),
    "t5-v1_1-xxl": (4096, 24, 64, 64, 10240),
}
"""Width, layers of each stack, heads, channels of a head, inner width: facts of the published configurations."""


@dataclasses.dataclass(frozen=True)
class PlannedModel:
    """A model as planning knows it."""

    info: BackboneInfo
    config: Any
    """transformers' configuration."""
    tokenizer: transformers.PreTrainedTokenizerBase | None
    """None where it is not at hand."""
    source: str
    """Where the shape is from, for people."""


def describe_model(name: str, revision: str | None = None) -> PlannedModel:
    """The model of that name: bundled, a local folder, a well-known T5, or one of the hub. Raises UserError.

    A well-known T5 is taken from the hub's cache or else from the table, without a network; of any other model of the
    hub the configuration and the tokenizer are fetched.
    """
    size = known_size(name) if revision is None and not Path(name).is_dir() else None
    folder: Path | None = None
    if size is None:
        folder, found = find_model(name, revision, CONFIGURATION)
        source = {"bundled": "the bundled files", "local": "its folder"}.get(found, f"the hub, commit {found[:12]}")
        config = load_config(folder, name)
    elif isinstance(cached := huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
        folder, source = Path(cached).parent, "the hub's cache"
        config = load_config(folder, name)
    else:
        config, source = table_config(*size), "the table of well-known T5s"
    tokenizer = None
    if folder is not None and has_vocabulary(folder):
        tokenizer = load_tokenizer(folder, name)
    with torch.device("meta"):
        model = transformers.AutoModelForSeq2SeqLM.from_config(config)
    info = BackboneInfo(
        name=name,
        revision="",
        digest="",
        model_type=config.model_type,
        width=config.d_model,
        encoder_layers=config.num_layers,
        decoder_layers=config.num_decoder_layers,
        heads=config.num_heads,
        parameters=sum(parameter.numel() for parameter in model.parameters()) + _own_head(config, folder),
    )
    return PlannedModel(info, config, tokenizer, source)


def _own_head(config: Any, folder: Path | None) -> int:
    """Parameters of a head that is not the embeddings: transformers' configuration does not know of it any more."""
    written = {} if folder is None else transformers.PretrainedConfig.get_config_dict(folder)[0]
    scaled = getattr(config, "scale_decoder_outputs", True)  # T5 v1.1 and FLAN: neither scaled nor tied
    tied = scaled and written.get("tie_word_embeddings", True) and config.model_type != "mt5"
    return 0 if tied else config.vocab_size * config.d_model


def known_size(name: str) -> tuple[tuple[int, int, int, int, int], bool] | None:
    """(sizes, whether it is of the gated, untied kind of v1.1 and FLAN) of a well-known T5, or None."""
    short = name.removeprefix("google-t5/").removeprefix("google/").replace("flan-t5-", "t5-v1_1-")
    return (SIZES[short], "v1_1" in short) if short in SIZES else None


def table_config(size: tuple[int, int, int, int, int], gated: bool) -> transformers.T5Config:
    """The configuration of a well-known T5."""
    names = ("d_model", "num_layers", "num_heads", "d_kv", "d_ff")
    kind = {"feed_forward_proj": "gated-gelu" if gated else "relu", "tie_word_embeddings": not gated}
    return transformers.T5Config(
        **dict(zip(names, size, strict=True)), **kind, vocab_size=VOCABULARY, decoder_start_token_id=0
    )


class RandomBackbone(Backbone):
    """Some layers of a model's shape with random weights, to be timed: nothing is read and nothing of it is kept."""

    def __init__(self, config: Any, layers: int, dtype: ComputeDtype, device: str) -> None:
        self.name, self.dtype, self.device = "random weights", dtype, device
        some = {"num_layers": layers, "num_decoder_layers": layers, "vocab_size": 512, "decoder_start_token_id": 0}
        self.config = type(config).from_dict(config.to_dict() | some)

    @cached_property
    def model(self) -> torch.nn.Module:
        """Eager attention, as in extraction; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.AutoModelForSeq2SeqLM.from_config(
                self.config, attn_implementation="eager", dtype=TORCH_DTYPES[self.dtype]
            )
        return model.eval().requires_grad_(False).to(self.device)
