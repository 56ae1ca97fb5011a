"""The plan of the whole store, and the extraction of a sample of its rows."""

import math
import time

import numpy as np
import torch

from read_cache.backbones import Backbone
from read_cache.extraction.fill import open_store
from read_cache.extraction.part import filler, length_batches, part_batches
from read_cache.extraction.plan import Plan, encode_rows, plan_encoded
from read_cache.extraction.rows import source_name
from read_cache.meters.meter import meter_stage
from read_cache.planning.backbone import open_planned
from read_cache.planning.forecast import Job, Planned, Stage, peaks
from read_cache.store.folder import StoreFolder
from read_cache.store.layout import Layout
from read_cache.store.manifest import Manifest
from read_cache.store.schema import activation_arrays, shared_arrays
from read_cache.tasks import find_task


def extract_sample(job: Job, started: float) -> tuple[Planned, Stage]:
    """Plan the whole store and fill one of a sample; return the plan, and seconds and peak of the whole extraction.

    `started` is when the stage's imports began, by `time.time`. Raises UserError.
    """
    config, place, task, run = job.extract, job.place, find_task(job.task), job.sample_rows > 0
    with meter_stage("extract", place.device) as meter:
        backbone, weights = open_planned(
            job.model, config.computed_in, place.device, place.revision, job.folder / "model", run
        )
        encoded, source = encode_rows(backbone, task, job.dataset, config), source_name(task, job.dataset)
        plan = plan_encoded(backbone, task, source, encoded, config)
        loaded, filling, larger = time.time() - started, 0.0, 0
        if run:
            length = plan.splits["train"].layout.length
            rows = max(job.sample_rows, -(-config.batch_tokens * len(length) // int(length.sum())))
            sample = plan_encoded(backbone, task, source, encoded, config.replaced(max_examples=min(rows, len(length))))
            filling = fill_seconds(job, backbone, sample, plan)
            # one part is computed while another one is written
            larger = 2 * (part_bytes(plan.manifest) - part_bytes(sample.manifest))
    layouts = {name: split.layout for name, split in plan.splits.items()}
    arrays = sum(values.nbytes for split in plan.arrays.values() for values in split.values())
    other = arrays + shared_bytes(plan.manifest, backbone.config.vocab_size)
    seconds = {"load and tokenise": loaded, "fill": filling, "extraction": loaded + filling}
    return Planned(plan.manifest, layouts, other, weights), Stage(seconds, peaks(meter.read(), larger))


def fill_seconds(job: Job, backbone: Backbone, sample: Plan, plan: Plan) -> float:
    """Fill and seal the sample's store, the training split between the others; return the seconds of the whole store.

    A part is written while the next one is computed. So in the time of the training parts there is one write for each
    of them, as in a long extraction. Times are scaled by padded tokens.
    """
    splits, started = sample.manifest.splits, time.perf_counter()
    writer = open_store(StoreFolder(job.store), sample, backbone)
    assert writer is not None
    *_, (_, shortest) = part_batches(sample, "train", 0, backbone)
    with torch.inference_mode():
        backbone.forward(shortest, attention=True)
    opened = time.perf_counter()
    ends = {}
    with filler(writer.folder.path, sample.manifest, sample, backbone) as fill:
        for split in sorted(splits, key=("validation", "train", "test").index):
            for part in range(splits[split].parts):
                fill((split, part))
            ends[split] = time.perf_counter()
    writer.seal()
    train = ends["train"] - ends["validation"]
    others = [name for name in splits if name != "train"]
    seconds = opened - started
    for taken, names in ((train, ["train"]), (time.perf_counter() - opened - train, others)):
        work = [
            sum(padded_tokens(of.splits[name].layout, job.extract.batch_tokens) for name in names)
            for of in (plan, sample)
        ]
        seconds += taken * work[0] / work[1]
    return seconds


def padded_tokens(layout: Layout, batch_tokens: int) -> int:
    """Return the padded tokens of all batches that fill a split."""
    lengths = [layout.length[layout.examples(part)] for part in range(layout.parts)]
    return sum(len(b) * int(length[b[0]]) for length in lengths for b in length_batches(length, batch_tokens))


def part_bytes(manifest: Manifest) -> int:
    """Return the bytes of all files of the largest part."""
    arrays = activation_arrays(manifest.backbone, manifest.format)
    return max(sum(manifest.shard(spec, split).nbytes for spec in arrays) for split in manifest.splits)


def shared_bytes(manifest: Manifest, vocabulary: int) -> int:
    """Return the bytes of the arrays that belong to no split: head, final norms, calibration."""
    spec, format = manifest.backbone, manifest.format
    sizes = {"candidate": len(manifest.trie.tokens) if manifest.trie else vocabulary, "width": spec.width}
    sizes |= {"component": format.rank, "state": len(format.array_layers(f"{format.first}/hidden"))}
    return sum(
        np.dtype(array.dtype).itemsize * math.prod(sizes[axis] for axis in array.axes)
        for array in shared_arrays(spec, format)
    )
