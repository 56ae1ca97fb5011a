"""`read_cache.attach`: networks by name, and the model they go beside."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from read_cache.errors import UserError
from read_cache.live.adopt import adopt_model
from read_cache.live.attached import Attached
from read_cache.networks.saved import TrainedNetwork, find_networks, load_network

Source = str | Path | TrainedNetwork
"""A network's folder, a folder of such folders, or what `load_network` gave."""


def attach(
    backbone: torch.nn.Module,
    networks: Mapping[str, Source] | Iterable[Source] | Source,
    model: str | Path | None = None,
) -> Attached:
    """Networks beside a `T5ForConditionalGeneration`, or an mT5 or UMT5, that was loaded with eager attention.

    Given a mapping, its keys name one network each; else a name is `task/network`. `model` is the name or folder that
    the backbone's weights came from, where it does not know itself: networks are bound to it. Raises UserError for a
    backbone they were not trained for.
    """
    if isinstance(networks, Mapping):
        trained = {
            name: one if isinstance(one, TrainedNetwork) else load_network(one) for name, one in networks.items()
        }
    else:
        trained = {}
        for source in [networks] if isinstance(networks, Source) else networks:
            for one in open_networks(source):
                name = f"{one.record.task.name}/{one.record.name}"
                if name in trained:
                    raise UserError(f"two networks are called {name}: give a dict of networks by names of your own")
                trained[name] = one
    return Attached(adopt_model(backbone, model), trained)


def open_networks(source: Source) -> list[TrainedNetwork]:
    """The network, or every network of a folder."""
    if isinstance(source, TrainedNetwork):
        return [source]
    return [load_network(folder) for folder in find_networks([Path(source)])]
