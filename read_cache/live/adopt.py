"""A model that the user has loaded, as a Backbone, after a check that its weights are those on disk."""

from pathlib import Path
from typing import Any

import torch

from read_cache.backbones import Backbone, open_backbone
from read_cache.backbones.base import TORCH_DTYPES
from read_cache.errors import UserError

UNUSED = "pooler."
"""Weights of BERT's pooling layer, which no state depends on."""


def adopt_model(model: Any, name: str | Path | None = None, revision: str | None = None) -> Backbone:
    """Return the model as a Backbone.

    Args:
        model: a transformers model in evaluation mode with eager attention, in float32 or bfloat16.
        name: where its weights came from; by default what the model itself says.
        revision: branch, tag or commit of a hub model; by default what the model itself says.

    Raises:
        UserError: the model is in training mode, in another precision, gives no attention weights, or holds other
            weights than those on disk.
    """
    if name is None:
        name = getattr(model, "name_or_path", "")
        revision = revision or getattr(getattr(model, "config", None), "_commit_hash", None)
    if not str(name):
        raise UserError(
            "networks are bound to a backbone's files, and this model does not know where it was loaded from: "
            "give attach(…, model=FOLDER_OR_NAME)"
        )
    dtype = next((ours for ours, theirs in TORCH_DTYPES.items() if theirs == getattr(model, "dtype", None)), None)
    if dtype is None:
        raise UserError(f"the backbone runs in {getattr(model, 'dtype', None)}: load it in bfloat16 or float32")
    if model.training:
        raise UserError("the backbone is in training mode, and dropout would change its states: call backbone.eval()")
    if (attention := getattr(model.config, "_attn_implementation", None)) != "eager":
        raise UserError(
            f"the backbone's attention is {attention!r}, which gives no attention weights: load it with "
            'attn_implementation="eager"'
        )
    backbone = open_backbone(str(name), dtype, str(model.device), revision)
    module = model if backbone.language_model else model.base_model
    check_weights(module, backbone)
    backbone.module = module
    return backbone


def check_weights(module: torch.nn.Module, backbone: Backbone) -> None:
    """Raise UserError unless the module's weights are those in the backbone's files, rounded to its dtype."""
    held = {name: weight for name, weight in module.state_dict().items() if not name.startswith(UNUSED)}
    expected = backbone.load_module().state_dict()
    if differing := sorted(expected.keys() ^ held.keys()):
        raise UserError(
            f"the backbone's weights have other names than those in {backbone.folder}, such as {differing[0]}: attach "
            "the plain model, as from_pretrained gives it, without adapters and not compiled"
        )
    for name, weight in expected.items():
        if not torch.equal(weight, held[name].to(weight)):
            raise UserError(
                f"the backbone's {name} differs from that in {backbone.folder}: expected the weights that the networks "
                "were trained for, and found a model that was trained further or comes from elsewhere"
            )
