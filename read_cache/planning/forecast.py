"""What a store and its training will take: exact bytes, and the stages on a sample, each in a process of its own."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from read_cache.config import ExtractConfig, ExtractPlace, Place, RunConfig
from read_cache.device import check_device
from read_cache.meters.readings import Readings
from read_cache.planning.processes import in_own_process
from read_cache.store.layout import Layout
from read_cache.store.manifest import Manifest
from read_cache.store.reader import array_bytes
from read_cache.system import keep_few_kernels, keep_freed_memory
from read_cache.tasks import find_task
from read_cache.training.network_config import NetworkConfig
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
class Job:
    """What is planned."""

    model: str
    task: str
    dataset: str | None
    extract: ExtractConfig
    place: ExtractPlace
    sample_rows: int
    folder: Path
    """A temporary folder for the sample's store and networks."""

    @property
    def store(self) -> Path:
        """The sample's store."""
        return self.folder / "store"


@dataclasses.dataclass(frozen=True)
class Planned:
    """The plan of the whole store."""

    manifest: Manifest
    layouts: dict[str, Layout]
    """By split."""
    other_bytes: int
    """Bytes of tokens, labels, the LM head's rows and the calibration."""
    weights: str
    """Where the backbone's weights came from."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the whole store."""

    seconds: dict[str, float]
    """By name of the work; the last one is the sum."""
    peak_bytes: dict[str, float]
    """`host` and `device`; one that cannot be read is missing."""


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
    stages: dict[str, Stage]
    """`extraction` and `training`; empty if nothing was run."""
    tier: str
    """Where the training split will be held."""

    def to_json(self) -> dict[str, Any]:
        """Return all values as JSON types."""
        values = {name: getattr(self, name) for name in ("bytes", "formats", "networks", "epochs", "tier")}
        activations = self.planned.manifest.activations.values()
        values |= {name: activations[name] for name in ("backbone", "splits", "format")}
        values |= {"other_bytes": self.planned.other_bytes, "weights": self.planned.weights}
        return values | {"stages": {name: dataclasses.asdict(stage) for name, stage in self.stages.items()}}


def forecast(
    model: str,
    task: str,
    *,
    dataset: str | None = None,
    extract: ExtractConfig | None = None,
    place: ExtractPlace | None = None,
    recipe: Recipe | None = None,
    training_place: Place | None = None,
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
        recipe: the networks and the run; by default one READ network.
        training_place: where training computes, and its memory.
        sample_rows: training rows of the sample, at least; enough for one batch of extraction are always taken. 0 runs
            nothing and gives bytes alone.
        say: called with a sentence about the work.

    Raises:
        UserError: as `extract` and `train`.
    """
    extract, place, training_place = extract or ExtractConfig(), place or ExtractPlace(), training_place or Place()
    for device in (place.device, training_place.device):
        check_device(device)
    sweep = (recipe or Recipe()).sweep(find_task(task).name)
    networks, stages, tier = sweep.networks(), dict[str, Stage](), ""
    with tempfile.TemporaryDirectory(prefix="read-cache-plan-", ignore_cleanup_errors=True) as temporary:
        job = Job(model, task, dataset, extract, place, sample_rows, Path(temporary))
        say("planning the store" + (" and extracting a sample of its rows" if sample_rows else ""))
        planned, extraction = in_own_process(run_extraction, job)
        if sample_rows:
            say("training on the sample")
            training, tier = in_own_process(run_training, job, planned, networks, sweep.run, training_place)
            stages = {"extraction": extraction, "training": training}
    sizes, formats = array_bytes(planned.manifest), format_bytes(planned.manifest, extract)
    return Forecast(planned, sizes, formats, len(networks), sweep.run.epochs, stages, tier)


def run_extraction(job: Job) -> tuple[Planned, Stage]:
    """Plan and extract; the imports are part of the stage's time and memory."""
    started = time.time()
    keep_freed_memory()
    keep_few_kernels()
    from read_cache.planning.extraction import extract_sample

    return extract_sample(job, started)


def run_training(
    job: Job, planned: Planned, networks: Sequence[NetworkConfig], run: RunConfig, place: Place
) -> tuple[Stage, str]:
    """Train; the imports are part of the stage's time and memory."""
    started = time.time()
    keep_freed_memory()
    from read_cache.planning.training import train_sample

    return train_sample(job, planned, networks, run, place, started)


def format_bytes(manifest: Manifest, config: ExtractConfig) -> dict[str, int]:
    """Return the bytes of all activation arrays in other formats; formats that the backbone rules out are left out."""
    sizes = {}
    for name, settings in ALTERNATIVES.items():
        if settings.get("rank", 0) < manifest.backbone.stacks[0].width:
            values = {"compute_dtype": None, "attention_dtype": None, "rank": 0} | settings
            format = config.replaced(**values).format(manifest.backbone)
            activations = manifest.activations.replaced(format=format)
            sizes[name] = sum(array_bytes(dataclasses.replace(manifest, activations=activations)).values())
    return sizes


def peaks(readings: Readings, larger: int) -> dict[str, float]:
    """Return the peaks that could be read, that of the host with the bytes by which the whole store's is larger."""
    found = {"host": readings.host_peak_bytes, "device": readings.device_peak_bytes}
    return {name: value + larger * (name == "host") for name, value in found.items() if value is not None}
