"""A model to plan for: with its own weights, or with random ones where only its configuration is at hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from read_cache.backbones import Backbone, open_backbone
from read_cache.backbones.base import TORCH_DTYPES
from read_cache.backbones.files import find_model
from read_cache.store.schema import ComputeDtype

CONFIGURATION = ["*.json", "*.model", "*.txt"]
"""Files of a hub model that are fetched: configuration and tokenizer."""


def open_planned(
    name: str, dtype: ComputeDtype, device: str, revision: str | None, copy: Path, run: bool
) -> tuple[Backbone, str]:
    """Open a model; return it and where its weights come from. Weights are never fetched from the hub.

    A model without weights gets random ones if it is to be run, and otherwise shapes alone; `copy` is a folder that is
    made for its configuration and tokenizer. Raises UserError as `open_backbone` does.
    """
    found, _ = find_model(name, revision, CONFIGURATION)
    if any(found.glob("*.safetensors")):
        return open_backbone(name, dtype, device, revision), "its own weights"
    copy.mkdir()
    for path in (file for pattern in CONFIGURATION for file in found.glob(pattern)):
        shutil.copy(path, copy)
    save_file({}, copy / "model.safetensors")
    backbone = open_backbone(str(copy), dtype, device)
    backbone.name, backbone.digest = name, ""
    backbone.module = random_module(backbone, device if run else "meta")
    return backbone, "random weights" if run else "no weights"


def random_module(backbone: Backbone, device: str) -> torch.nn.Module:
    """Return the backbone's model with random weights; on the device `meta` it has shapes alone."""
    config, auto, options = backbone.config, transformers.AutoModel, dict[str, Any]()
    if config.is_encoder_decoder:
        auto = transformers.AutoModelForSeq2SeqLM
    elif backbone.language_model:
        auto = transformers.AutoModelForCausalLM
    else:
        options["add_pooling_layer"] = False
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        module = auto.from_config(
            config, dtype=TORCH_DTYPES[backbone.dtype], attn_implementation="eager", trust_remote_code=False, **options
        )
        written = json.loads((backbone.folder / "config.json").read_text(encoding="utf-8"))
        tied = getattr(config, "scale_decoder_outputs", True) and written.get("tie_word_embeddings", True)
        if backbone.family == "t5" and not (tied and config.model_type != "mt5"):  # transformers ties it all the same
            head = module.get_output_embeddings()
            head.weight = torch.nn.Parameter(torch.randn_like(head.weight))
    return module.eval().requires_grad_(False)
