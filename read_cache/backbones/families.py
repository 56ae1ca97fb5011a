"""The registry of backbone families, and how a model is opened by name."""

from read_cache.backbones.base import Backbone
from read_cache.backbones.bert import Bert
from read_cache.backbones.files import find_model, load_config
from read_cache.backbones.gpt2 import GPT2
from read_cache.backbones.llama import Llama
from read_cache.backbones.t5 import T5
from read_cache.device import check_device
from read_cache.errors import UserError
from read_cache.store.schema import ComputeDtype

FAMILIES: dict[str, type[Backbone]] = {
    **dict.fromkeys(("t5", "mt5", "umt5"), T5),  # ByT5 and FLAN-T5 are of type t5 or mt5
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), Bert),  # MiniLM is of type bert
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), Llama),  # SmolLM2 is of type llama
    "gpt2": GPT2,
}
"""By the `model_type` of a model's config.json."""


def open_backbone(
    name: str, dtype: ComputeDtype = "fp32", device: str = "cpu", revision: str | None = None
) -> Backbone:
    """Find a model and return it as a Backbone of its family. Weights load on first use.

    Args:
        name: a bundled or packaged model, a local folder, or a model of the hub.
        dtype: what it computes in.
        device: a torch device.
        revision: a branch, tag or commit of a hub model.

    Raises:
        UserError: there is no such model, it is of no known family, or it cannot be loaded safely.
    """
    check_device(device)
    folder, found = find_model(name, revision)
    config = load_config(folder, name)
    if config.model_type not in FAMILIES:
        raise UserError(f"model {name} is a {config.model_type}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[config.model_type](name, folder, found, config, dtype, device)
