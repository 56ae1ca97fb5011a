"""The cost of a store and of its training: exact bytes, and seconds measured on a sample of the rows."""

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from read_cache.backbones import Backbone, open_backbone
from read_cache.config import ExtractConfig, ExtractPlace, Place, RunConfig
from read_cache.device import check_device, enough_memory, free_device_bytes
from read_cache.extraction.fill import fill_store, open_store
from read_cache.extraction.part import length_batches, part_batches
from read_cache.extraction.plan import Plan, encode_rows, plan_encoded
from read_cache.extraction.rows import source_name
from read_cache.loader.batches import EXAMPLES, SplitBatches, channel_statistics, split_size
from read_cache.loader.order import epoch_batches, store_batches
from read_cache.loader.tiers import Tier, assign_tiers
from read_cache.store.folder import StoreFolder
from read_cache.store.layout import Layout
from read_cache.store.manifest import Manifest
from read_cache.store.reader import StoreReader, array_bytes
from read_cache.store.schema import shared_arrays
from read_cache.tasks import find_task
from read_cache.training.from_store import FromStore
from read_cache.training.learner import Learner
from read_cache.training.loop import evaluate_learners
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import Recipe
from read_cache.training.stack import steppers
from read_cache.watch import Watch

STEPS = 32
"""Training steps that are timed, at least, if the sample has so many in ten epochs."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The cost of a store and of its training."""

    manifest: Manifest
    """Of the whole store."""
    other_bytes: int
    """Bytes of tokens, labels, the LM head's rows and the calibration."""
    recommended: ExtractConfig
    """Settings of the same store, in the recommended format."""
    networks: int
    epochs: int
    """The most epochs that the run has."""
    stages: dict[str, dict[str, float]]
    """Seconds of `extraction` and `training` by work, the last their sum; empty if nothing was run."""
    tier: str
    """The place of the training split, as in `SplitBatches.tier`."""

    @property
    def recommended_bytes(self) -> int:
        """Bytes of the activations in the recommended format."""
        held = self.manifest.activations.replaced(format=self.recommended.format(self.manifest.backbone))
        return sum(array_bytes(dataclasses.replace(self.manifest, activations=held)).values())


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
    recommended = extract.recommended(plan.manifest.backbone.stacks[0].width)
    return Forecast(plan.manifest, other_bytes, recommended, len(networks), sweep.run.epochs, stages, tier)


def extract_sample(
    model: str,
    task_name: str,
    dataset: str | None,
    config: ExtractConfig,
    place: ExtractPlace,
    sample_rows: int,
    folder: Path,
) -> tuple[Plan, int, dict[str, float]]:
    """Plan the whole store, and fill `folder`/store with a sample: at least `sample_rows` training rows and one batch.

    Returns the plan; the bytes of tokens, labels, the LM head's rows and the calibration; and the seconds of the whole
    extraction by work, whose last is their sum. Without a sample there are none. Raises UserError.
    """
    started, task = time.perf_counter(), find_task(task_name)
    backbone = open_backbone(model, config.computed_in, place.device, place.revision)
    encoded, source = encode_rows(backbone, task, dataset, config), source_name(task, dataset)
    plan = plan_encoded(backbone, task, source, encoded, config)
    seconds = {}
    if sample_rows:
        length = plan.splits["train"].layout.length
        rows = max(sample_rows, -(-config.batch_tokens * len(length) // int(length.sum())))
        sample = plan_encoded(backbone, task, source, encoded, config.replaced(max_examples=min(rows, len(length))))
        loaded = time.perf_counter() - started
        filling = fill_seconds(folder / "store", backbone, sample, plan)
        seconds = {"load and tokenise": loaded, "fill": filling, "extraction": loaded + filling}
    arrays = sum(values.nbytes for split in plan.arrays.values() for values in split.values())
    return plan, arrays + shared_bytes(plan.manifest, backbone), seconds


def fill_seconds(store: Path, backbone: Backbone, sample: Plan, plan: Plan) -> float:
    """Fill and seal the sample's store; return the seconds of the whole store, scaled by padded tokens."""
    started = time.perf_counter()
    writer = open_store(StoreFolder(store), sample, backbone)
    assert writer is not None
    *_, (_, shortest) = part_batches(sample, "train", 0, backbone)
    with torch.inference_mode():  # the first pass is slower than all others
        backbone.forward(shortest, attention=True)
    opened = time.perf_counter()
    fill_store(writer, sample, backbone)
    return opened - started + (time.perf_counter() - opened) * padded_tokens(plan) / padded_tokens(sample)


def padded_tokens(plan: Plan) -> int:
    """Return the padded tokens of all batches that fill a store."""
    total, batch_tokens = 0, plan.manifest.provenance.batch_tokens
    for layout in (split.layout for split in plan.splits.values()):
        for length in (layout.length[layout.examples(part)] for part in range(layout.parts)):
            total += sum(len(batch) * int(length[batch[0]]) for batch in length_batches(length, batch_tokens))
    return total


def shared_bytes(manifest: Manifest, backbone: Backbone) -> int:
    """Return the bytes of the arrays that belong to no split: head, final norms, calibration."""
    spec, format = manifest.backbone, manifest.format
    sizes = {
        "candidate": len(manifest.trie.tokens) if manifest.trie else backbone.config.vocab_size,
        "width": spec.width,
        "component": format.rank,
        "state": len(format.array_layers(f"{format.first}/hidden")),
    }
    return sum(
        np.dtype(array.dtype).itemsize * math.prod(sizes[axis] for axis in array.axes)
        for array in shared_arrays(spec, format)
    )


def train_sample(
    folder: Path, plan: Plan, networks: Sequence[NetworkConfig], run: RunConfig, place: Place
) -> tuple[dict[str, float], Tier]:
    """Train a few epochs on `folder`/store; return seconds of the whole run by work, and the training split's tier.

    The seconds are scaled: the first reading by bytes, channel statistics by rows, the rest by padded tokens. The last
    entry is their sum. Checkpoints are not counted. Raises UserError, also if the whole store's parts do not fit into
    memory.
    """
    started, setup = time.perf_counter(), FromStore(StoreFolder(folder / "store"))
    whole = {name: split.layout for name, split in plan.splits.items()}
    setup.check(networks, plan.manifest)
    prepared = setup.prepare(networks, run, place)
    splits = {name: split for name, split in prepared.splits.items() if isinstance(split, SplitBatches)}
    sizes = {name: split_size(plan.manifest, name, split.collator) for name, split in splits.items()}
    tiers = assign_tiers(sizes, run.window, place.memory * 1e9, free_device_bytes(place.device))
    for name, split in splits.items():
        split.tier = tiers[name]
    train, validation = splits["train"], splits["validation"]
    begun = time.perf_counter() - started
    whole_bytes = sum(size.whole for size in sizes.values())
    begun += rest_of_first_pass(setup.folder, prepared.learners, train, whole_bytes, len(whole["train"].length))
    stepping = list(steppers(prepared.learners, place.stacked))
    rates: list[tuple[float, float]] = []
    for epoch in range(1 + min(10, max(3, -(-STEPS // len(train))))):
        before = time.perf_counter()
        for learner in prepared.learners:
            learner.model.train()
        for batch in train.epoch(run.order_seed, epoch):
            for stepper in stepping:
                stepper.train_step(batch)
        for learner in prepared.learners:
            learner.read_losses()  # waits for the device
        trained = time.perf_counter()
        evaluate_learners(prepared.learners, validation)
        tokens = batch_tokens(train.split.layout, run, epoch), batch_tokens(validation.split.layout, run)
        rates.append(((trained - before) / tokens[0], (time.perf_counter() - trained) / tokens[1]))
    # the first epoch is the first with batches of each shape: what it takes more
    step, evaluation = (statistics.median(rate) for rate in zip(*rates[1:], strict=True))
    once = sum(max(0, first - later) * n for first, later, n in zip(rates[0], (step, evaluation), tokens, strict=True))
    seconds = {
        "start of training": begun + once,
        "training epoch": step * batch_tokens(whole["train"], run, 0),
        "validation": evaluation * batch_tokens(whole["validation"], run),
    }
    last = [whole["validation"], whole["test"]] if "test" in whole else []
    seconds["last evaluation"] = evaluation * sum(batch_tokens(layout, run) for layout in last)
    epochs = run.epochs * (seconds["training epoch"] + seconds["validation"])
    seconds["training"] = seconds["start of training"] + epochs + seconds["last evaluation"]
    return seconds, tiers["train"]


def rest_of_first_pass(
    store: StoreFolder, learners: Sequence[Learner], sample: SplitBatches, size: int, rows: int
) -> float:
    """Return the seconds by which the first pass over a whole store exceeds that over a sample.

    It reads `size` bytes, compares checksums, and takes channel statistics of the `rows` training rows.
    """
    before, split = time.perf_counter(), StoreReader(store).split("train")
    # parts stay, so that the time includes that of new memory
    parts = [split.read_part(part, sample.arrays, sample.collator.format) for part in range(split.parts)]
    read = sum(values.nbytes for arrays in parts for values in arrays.values())
    seconds = (time.perf_counter() - before) * (size / read - 1)
    if any(learner.model.network.takes_statistics for learner in learners):
        before = time.perf_counter()
        channel_statistics(sample)
        seconds += (time.perf_counter() - before) * (min(EXAMPLES, rows) / min(EXAMPLES, split.examples) - 1)
    return seconds


def batch_tokens(layout: Layout, run: RunConfig, epoch: int | None = None) -> int:
    """Return the padded tokens of the batches of an epoch; None: of an evaluation."""
    if epoch is None:
        batches = store_batches(len(layout.length), run.batch_size)
    else:
        batches = epoch_batches(layout.part_start, layout.length, run.batch_size, run.window, run.order_seed, epoch)
    length = next(iter(layout.selected.values()), layout.length)
    return sum(len(batch) * int(length[batch].max()) for batch in batches)
