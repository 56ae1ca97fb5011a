"""`read_cache.attach`: networks by name, and the model they are attached to."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from read_cache.errors import UserError
from read_cache.live.adopt import adopt_model
from read_cache.live.attached import Attached
from read_cache.networks.saved import TrainedNetwork, find_networks, load_network

Source = str | Path | TrainedNetwork
"""A network's folder, a folder of such folders, or the result of `load_network`."""


def attach(
    backbone: torch.nn.Module,
    networks: Mapping[str, Source] | Iterable[Source] | Source,
    model: str | Path | None = None,
    revision: str | None = None,
) -> Attached:
    """Attach networks to a T5 or BERT that was loaded with eager attention.

    Args:
        backbone: a `T5ForConditionalGeneration` (or mT5, UMT5), or a BERT-like `AutoModel`.
        networks: networks by names of your own; or folders, whose networks are then called `task/network`.
        model: name or folder that the backbone's weights came from; by default what the backbone itself says.
        revision: branch, tag or commit of a hub model; by default what the backbone itself says.

    Raises:
        UserError: the networks were not trained for this backbone, or two have the same name.
    """
    trained: dict[str, TrainedNetwork] = {}
    if isinstance(networks, Mapping):
        for name, source in networks.items():
            trained[name] = source if isinstance(source, TrainedNetwork) else load_network(source)
    else:
        for source in [networks] if isinstance(networks, Source) else networks:
            for one in open_networks(source):
                name = f"{one.record.task.name}/{one.record.name}"
                if name in trained:
                    raise UserError(f"two networks are called {name}: give a dict of networks by names of your own")
                trained[name] = one
    if not trained:
        raise UserError("there is no network to attach: give at least one folder or loaded network")
    return Attached(adopt_model(backbone, model, revision), trained)


def open_networks(source: Source) -> list[TrainedNetwork]:
    """Return the network, or every network of a folder."""
    if isinstance(source, TrainedNetwork):
        return [source]
    return [load_network(folder) for folder in find_networks([Path(source)])]
