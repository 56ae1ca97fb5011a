"""The cost of a store and of its training: exact bytes, and seconds measured on a sample of the rows."""

import dataclasses
import tempfile
from pathlib import Path

from read_cache.config import ExtractConfig, ExtractPlace, Place
from read_cache.device import check_device, enough_memory
from read_cache.planning.extraction import extract_sample
from read_cache.planning.training import train_sample
from read_cache.store.manifest import Manifest
from read_cache.tasks import find_task
from read_cache.training.recipe import Recipe
from read_cache.watch import Watch


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The cost of a store and of its training."""

    manifest: Manifest
    """Of the whole store."""
    other_bytes: int
    """Bytes of tokens, labels, the LM head's rows and the calibration."""
    networks: int
    epochs: int
    """The most epochs that the run has."""
    stages: dict[str, dict[str, float]]
    """Seconds of `extraction` and `training` by work, the last their sum; empty if nothing was run."""
    tier: str
    """The place of the training split, as in `SplitBatches.tier`."""


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
    watch: Watch = Watch(),
) -> Forecast:
    """Plan a store, and run both stages on a sample of its rows.

    Args:
        model: a model as `extract` takes it.
        task: a task as `extract` takes it.
        dataset: its rows, by default the task's own.
        extract: settings of the store.
        place: where the extraction computes.
        recipe: the networks and the run.
        training_place: where training computes, and its memory.
        sample_rows: training rows of the sample, at least. 0 runs nothing and gives bytes alone.
        watch: functions to call.

    Raises:
        UserError: as `extract` and `train`.
    """
    for device in (place.device, training_place.device):
        check_device(device)
    sweep = recipe.sweep(find_task(task).name)
    networks, stages, tier = sweep.networks(), dict[str, dict[str, float]](), ""
    with tempfile.TemporaryDirectory(prefix="read-cache-plan-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        watch.say("planning the store" + (" and extracting a sample of its rows" if sample_rows else ""))
        plan, other_bytes, extraction = extract_sample(model, task, dataset, extract, place, sample_rows, folder)
        if sample_rows:
            watch.say("training on the sample")
            with enough_memory("plan for fewer or narrower networks, or a smaller batch_size"):
                training, tier = train_sample(folder, plan, networks, sweep.run, training_place)
            stages = {"extraction": extraction, "training": training}
    return Forecast(plan.manifest, other_bytes, len(networks), sweep.run.epochs, stages, tier)
