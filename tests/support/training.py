"""Training from a store without the command line, also in a process of its own."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from read_cache.config import Place, RunConfig
from read_cache.networks.base import NETWORKS
from read_cache.store.folder import StoreFolder
from read_cache.training.from_store import FromStore
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Recipe
from read_cache.training.results import Result
from read_cache.training.run import train_networks
from read_cache.watch import Watch


def network(kind: str = "read", learning_rate: float = 5e-4, seed: int = 0, **settings: object) -> NetworkConfig:
    """A network of a kind with some of its settings."""
    return NetworkConfig(kind=kind, settings=NETWORKS[kind].Config(**settings), learning_rate=learning_rate, seed=seed)


def train_store(
    store: Path | str,
    out: Path,
    networks: Sequence[NetworkConfig],
    run: RunConfig,
    watch: Watch = Watch(),
    **place: Any,
) -> list[Result]:
    """Train side networks on one store."""
    return train_networks(FromStore(StoreFolder(store)), networks, run, out, Place(**place), watch)


def weights(result: Result) -> dict[str, torch.Tensor]:
    """The saved weights of a result."""
    return load_file(f"{result.folder}/model.safetensors")


def main() -> None:
    """Train as the program's arguments say: a store, a folder for the results, and settings in JSON."""
    store, out, settings = sys.argv[1:]
    sweep = Recipe().override(json.loads(settings)).sweep("")
    train_store(store, Path(out), sweep.networks(), sweep.run)
