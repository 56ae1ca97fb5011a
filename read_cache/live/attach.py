"""`read_cache.attach`: a model that the user has loaded, and the networks to run beside it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from read_cache.backbones import Backbone, open_backbone
from read_cache.backbones.base import TORCH_DTYPES
from read_cache.errors import UserError
from read_cache.live.attached import Attached
from read_cache.networks.saved import TrainedNetwork, find_networks, load_network

Source = str | Path | TrainedNetwork
"""A network's folder or name on the hub, a folder of such folders, or the result of `load_network`."""


def attach(
    backbone: torch.nn.Module,
    networks: Mapping[str, Source] | Iterable[Source] | Source,
    model: str | Path | None = None,
    revision: str | None = None,
) -> Attached:
    """Attach networks to a model of a supported family that was loaded with eager attention.

    Args:
        backbone: a `T5ForConditionalGeneration` (or mT5, UMT5), a BERT-like `AutoModel`, or an `AutoModelForCausalLM`.
        networks: networks by names of your own; or folders, whose networks are then called `task/network`.
        model: name or folder that the backbone's weights came from; by default its own `name_or_path`.
        revision: branch, tag or commit of a hub model; by default that of the backbone.

    Raises:
        UserError: the networks were not trained for this backbone, two have the same name, or `adopt_model` refuses
            the model.
    """
    trained: dict[str, TrainedNetwork] = {}
    if isinstance(networks, Mapping):
        for name, source in networks.items():
            trained[name] = source if isinstance(source, TrainedNetwork) else load_network(source)
    else:
        for source in [networks] if isinstance(networks, Source) else networks:
            found = [source] if isinstance(source, TrainedNetwork) else map(load_network, find_networks([Path(source)]))
            for one in found:
                name = f"{one.record.task.name}/{one.record.name}"
                if name in trained:
                    raise UserError(f"two networks are called {name}: give a dict of networks by names of your own")
                trained[name] = one
    if not trained:
        raise UserError("there is no network to attach: give at least one folder or loaded network")
    return Attached(adopt_model(backbone, model, revision), trained)


def adopt_model(model: Any, name: str | Path | None = None, revision: str | None = None) -> Backbone:
    """Return a transformers model that is in memory as a Backbone. `name` and `revision` are those of `attach`.

    Raises UserError if the model is in training mode, in another precision than float32 or bfloat16, gives no
    attention weights, or holds other weights than those on disk.
    """
    if name is None:
        name = getattr(model, "name_or_path", "")
        revision = revision or getattr(getattr(model, "config", None), "_commit_hash", None)
    if not str(name):
        raise UserError(
            "the backbone has no name_or_path to compare its weights with: give its folder or name as model"
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
    # no state depends on BERT's pooling layer
    weights = {name: weight for name, weight in module.state_dict().items() if not name.startswith("pooler.")}
    expected = backbone.load_module().state_dict()
    if differing := sorted(expected.keys() ^ weights.keys()):
        raise UserError(
            f"the backbone's weights have other names than those in {backbone.folder}, such as {differing[0]}: attach "
            "the plain model, as from_pretrained gives it, without adapters and not compiled"
        )
    for name, weight in expected.items():
        if not torch.equal(weight, weights[name].to(weight)):
            raise UserError(
                f"the backbone's {name} differs from that in {backbone.folder}, which the networks were trained for: "
                "attach a model that was not trained further and was loaded from there"
            )
