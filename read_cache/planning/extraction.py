"""The plan of the whole store, and the extraction of a sample of its rows."""

import math
import time
from pathlib import Path

import numpy as np
import torch

from read_cache.backbones import Backbone, open_backbone
from read_cache.config import ExtractConfig, ExtractPlace
from read_cache.extraction.fill import fill_store, open_store
from read_cache.extraction.part import length_batches, part_batches
from read_cache.extraction.plan import Plan, encode_rows, plan_encoded
from read_cache.extraction.rows import source_name
from read_cache.store.folder import StoreFolder
from read_cache.store.manifest import Manifest
from read_cache.store.schema import shared_arrays
from read_cache.tasks import find_task


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
