"""Peak memory of both stages, counted from shapes and sizes."""

import os

from read_cache.loader.batches import READ_AHEAD
from read_cache.loader.collate import NETWORK_ARRAYS
from read_cache.networks.config import ReadConfig
from read_cache.networks.read import build_network
from read_cache.planning.batches import Batches, extraction_batches
from read_cache.planning.models import PlannedModel
from read_cache.planning.rows import PlannedRows
from read_cache.store.manifest import Manifest
from read_cache.store.schema import activation_arrays
from read_cache.train.grid import backbone_shape

FP32 = 4
STORED_BYTES = {"fp32": 4, "bf16": 2, "int8": 1, "fp16": 2, "uint8": 1}


def resident_bytes() -> int:
    """What this process holds now: the interpreter and its libraries, if it has done nothing yet. 0 if unknown."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def available_bytes() -> int:
    """Of this machine's memory, what is free or can be made so."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = file.read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def part_bytes(manifest: Manifest, split: str, attention: bool = True) -> int:
    """What a part of a split takes in training: the arrays that networks see."""
    specs = activation_arrays(manifest.form)
    seen = [s for s in specs if s.name in NETWORK_ARRAYS and (attention or not s.name.endswith("attention"))]
    return sum(shard.stride * shard.layers for shard in (manifest.shard(spec, split) for spec in seen))


def extraction_bytes(model: PlannedModel, manifest: Manifest, rows: PlannedRows) -> tuple[int, int]:
    """(weights and the largest batch's activations, parts on their way to the disk), each at its peak."""
    config, info = model.config, model.info
    itemsize = STORED_BYTES[manifest.compute_dtype]
    found = 0
    for split in rows.splits.values():
        batches = extraction_batches(split, manifest.batch_tokens)
        tokens, pairs = batches.rows * batches.tokens, batches.rows * batches.tokens**2
        states = (2 * (info.encoder_layers + 1) * info.width + 3 * config.d_ff) * tokens
        weights = (info.encoder_layers * (manifest.form.attention != "none") + 4) * info.heads * pairs
        crossed = info.decoder_layers * 2 * config.num_heads * config.d_kv * batches.paths * batches.tokens
        found = max(found, int((itemsize * (states + weights) + itemsize * crossed // info.decoder_layers).max()))
    largest = max(sum(manifest.shard(s, name).nbytes for s in activation_arrays(manifest.form)) for name in rows.splits)
    loaded = info.parameters * itemsize  # beside the mapped file at first, and then beside activations
    return loaded + max(loaded, found), 2 * largest


def training_bytes(manifest: Manifest, batches: Batches, saved_bytes: float) -> tuple[int, int]:
    """(the largest step, batches that are padded ahead), each at its peak.

    `saved_bytes` is what the networks that step together keep of a token for their gradients.
    """
    tokens, pairs = batches.rows * batches.tokens, batches.rows * batches.tokens**2
    form = manifest.form
    layers, channels = len(form.encoder_layers), form.rank or manifest.backbone.width
    heads = {"mean": 1, "heads": manifest.backbone.heads, "none": 0}[form.attention]
    stored = (layers + 1) * channels * STORED_BYTES[form.dtype] * tokens
    weights = layers * heads * pairs
    padded = stored + weights * STORED_BYTES[form.attention_dtype]
    numbers = (layers + 1) * manifest.backbone.width
    unpacked = 3 * FP32 * numbers * tokens if form.calibrated and not form.rank else 0  # int8 to states, and between
    step = int((saved_bytes * tokens + FP32 * weights + unpacked).max())
    return step, int((READ_AHEAD + 2) * padded.max())


def weights_bytes(read: ReadConfig, manifest: Manifest) -> int:
    """A network's weights, gradients and AdamW's two moments, in fp32, and its best weights so far."""
    network = build_network(read, backbone_shape(manifest, read.layers), 0)
    return 5 * FP32 * sum(parameter.numel() for parameter in network.parameters())
