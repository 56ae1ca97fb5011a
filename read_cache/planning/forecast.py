"""What a store and its training will take: exact bytes, and seconds of both stages from a sample of the rows."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from read_cache.config import ExtractConfig, ExtractPlace, Place
from read_cache.device import check_device
from read_cache.planning.extraction import Planned, extract_sample
from read_cache.planning.training import train_sample
from read_cache.store.manifest import Manifest
from read_cache.store.reader import array_bytes
from read_cache.tasks import find_task
from read_cache.training.recipe import Recipe

SMALL = {"dtype": "int8", "attention_dtype": "uint8"}
ALTERNATIVES: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": "fp32"},
    "bf16": {"dtype": "bf16"},
    "bf16, no attention": {"dtype": "bf16", "attention": "none"},
    "bf16, every head": {"dtype": "bf16", "attention": "heads"},
    "int8, uint8 attention": SMALL,
    **{f"int8, uint8 attention, rank {rank}": SMALL | {"rank": rank} for rank in (256, 128, 64)},
}
"""Formats whose bytes are compared."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a store and its training will take."""

    planned: Planned
    bytes: dict[str, int]
    """Exact bytes of each activation array's files."""
    formats: dict[str, int]
    """Exact bytes of all activation arrays by format."""
    networks: int
    epochs: int
    """The most epochs that the run has."""
    stages: dict[str, dict[str, float]]
    """Seconds of `extraction` and `training` by work, the last their sum; empty if nothing was run."""
    tier: str
    """Where the training split will be held."""

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON types."""
        names = ("bytes", "formats", "networks", "epochs", "stages", "tier")
        activations = self.planned.manifest.activations.values()
        values = {name: getattr(self, name) for name in names}
        values |= {name: activations[name] for name in ("backbone", "splits", "format")}
        return values | {"other_bytes": self.planned.other_bytes, "weights": self.planned.weights}


def forecast(
    model: str,
    task: str,
    *,
    dataset: str | None = None,
    extract: ExtractConfig,
    place: ExtractPlace,
    recipe: Recipe,
    training_place: Place,
    sample_rows: int = 64,
    say: Callable[[str], None] = lambda text: None,
) -> Forecast:
    """Plan a store, and run both stages on a sample of its rows.

    Args:
        model: a model as `extract` takes it; of one without weights, `config.json` and the tokenizer are enough.
        task: a task as `extract` takes it.
        dataset: its rows, by default the task's own.
        extract: settings of the store.
        place: where the extraction computes.
        recipe: the networks and the run.
        training_place: where training computes, and its memory.
        sample_rows: training rows of the sample, at least. 0 runs nothing and gives bytes alone.
        say: called with a sentence about the work.

    Raises:
        UserError: as `extract` and `train`.
    """
    for device in (place.device, training_place.device):
        check_device(device)
    sweep = recipe.sweep(find_task(task).name)
    networks, stages, tier = sweep.networks(), dict[str, dict[str, float]](), ""
    with tempfile.TemporaryDirectory(prefix="read-cache-plan-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        say("planning the store" + (" and extracting a sample of its rows" if sample_rows else ""))
        planned, extraction = extract_sample(model, task, dataset, extract, place, sample_rows, folder)
        if sample_rows:
            say("training on the sample")
            training, tier = train_sample(folder, planned, networks, sweep.run, training_place)
            stages = {"extraction": extraction, "training": training}
    sizes, formats = array_bytes(planned.manifest), format_bytes(planned.manifest, extract)
    return Forecast(planned, sizes, formats, len(networks), sweep.run.epochs, stages, tier)


def format_bytes(manifest: Manifest, config: ExtractConfig) -> dict[str, int]:
    """Return the bytes of all activation arrays in other formats, with states at the same positions.

    Formats that the backbone or the positions rule out are left out.
    """
    sizes, positions = {}, manifest.format.positions
    for name, settings in ALTERNATIVES.items():
        without_attention = positions != "all" and "attention" in settings
        if settings.get("rank", 0) < manifest.backbone.stacks[0].width and not without_attention:
            values = {"compute_dtype": None, "attention_dtype": None, "rank": 0, "positions": positions} | settings
            format = config.replaced(**values).format(manifest.backbone)
            activations = manifest.activations.replaced(format=format)
            sizes[name] = sum(array_bytes(dataclasses.replace(manifest, activations=activations)).values())
    return sizes
