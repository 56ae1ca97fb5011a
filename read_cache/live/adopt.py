"""A model that someone else has loaded, as a Backbone, once it is sure that it is the one on disk."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from read_cache.backbones.t5 import TORCH_DTYPES, Backbone
from read_cache.errors import UserError


def adopt_model(model: torch.nn.Module, name: str | Path | None = None) -> Backbone:
    """The model as a Backbone; `name` is where its weights came from, where it does not know itself.

    Raises UserError for a model that trains, runs in fp16, gives no attention weights, or holds other weights than
    those that came from there.
    """
    name = str(name or getattr(model, "name_or_path", ""))
    if not name:
        raise UserError(
            "networks are bound to a backbone's files, and this model does not say where it was loaded from: "
            "give attach(…, model=FOLDER_OR_NAME)"
        )
    dtype = next((ours for ours, theirs in TORCH_DTYPES.items() if theirs == getattr(model, "dtype", None)), None)
    if dtype is None:
        raise UserError(f"the backbone runs in {getattr(model, 'dtype', None)}: load it in bfloat16 or float32")
    if model.training:
        raise UserError("the backbone is in training mode, and dropout would change its states: call backbone.eval()")
    backbone = Backbone(name, dtype, str(model.device))
    if (attention := getattr(model.config, "_attn_implementation", None)) != "eager":
        raise UserError(
            f"the backbone's attention is {attention!r}, which gives no attention weights: load it with "
            'attn_implementation="eager"'
        )
    check_weights(model, backbone)
    backbone.model = model
    return backbone


def check_weights(model: torch.nn.Module, backbone: Backbone) -> None:
    """Raises UserError where the model's weights are not those in the backbone's files, rounded to its dtype."""
    held = model.state_dict()
    compared: set[int] = set()
    for path in sorted(backbone.folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in held.keys() & set(file.keys()):
                    compared.add(held[name].data_ptr())
                    if not torch.equal(file.get_tensor(name).to(held[name].dtype), held[name].cpu()):
                        raise UserError(
                            f"the backbone's {name} is not what {path} holds: networks see no meaning in the states of "
                            "a backbone that was trained further, or that came from elsewhere"
                        )
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
    # A tied weight is in no file under its own name; one that an adapter has put in is nobody's.
    if unknown := [name for name, weight in held.items() if weight.data_ptr() not in compared]:
        raise UserError(
            f"the backbone's {unknown[0]} is in no file of {backbone.folder}: attach the plain model, as "
            "from_pretrained gives it, without adapters and not compiled"
        )
