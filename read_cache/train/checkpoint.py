"""The state of a run after an epoch, in one safetensors file that is replaced whole."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from read_cache.errors import UserError
from read_cache.train.grid import TrainConfig
from read_cache.train.learner import Learner


def save_checkpoint(path: Path, epoch: int, store_digest: str, run: TrainConfig, learners: list[Learner]) -> None:
    """Write the state after `epoch` epochs."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for learner in learners:
        facts[learner.config.name] = learner.facts()
        tensors |= {f"{learner.config.name}/{name}": value for name, value in learner.tensors().items()}
    metadata = {
        "epoch": epoch,
        "store": store_digest,
        "run": dataclasses.asdict(run),
        "learners": facts,
    }
    unfinished = path.with_suffix(".unfinished")
    save_file({name: value.contiguous() for name, value in tensors.items()}, unfinished, {"json": json.dumps(metadata)})
    os.replace(unfinished, path)


def load_checkpoint(path: Path, store_digest: str, run: TrainConfig, learners: list[Learner]) -> int:
    """Restore the learners; returns the epochs done, 0 where there is no checkpoint.

    Raises UserError where the checkpoint belongs to another store, grid or settings.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["json"])
            names = {learner.config.name for learner in learners}
            found = (metadata["store"], metadata["run"], set(metadata["learners"]))
            if found != (store_digest, dataclasses.asdict(run), names):
                raise UserError(
                    f"{path} is the checkpoint of a run with another store, other settings or another grid: "
                    "give the same options to go on with it, another --out, or delete the checkpoint"
                )
            for learner in learners:
                prefix = f"{learner.config.name}/"
                names_here = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 (no mapping)
                tensors = {key.removeprefix(prefix): file.get_tensor(key) for key in names_here}
                learner.restore(tensors, metadata["learners"][learner.config.name])
            return int(metadata["epoch"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it to train again from the start") from error
