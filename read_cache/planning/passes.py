"""Seconds of the backbone's pass, and of bringing what it says into a part: a few layers with random weights are run.

All layers of a stack are alike, so the time of a few is the time of all by their number. What is run is what
extraction runs.
"""

import dataclasses
from typing import Any

import numpy as np

from read_cache.extract.calibrate import calibrate
from read_cache.extract.config import ExtractConfig
from read_cache.extract.encode import EncodedSplit, Nodes
from read_cache.extract.forward import run_backbone
from read_cache.extract.parts import compute_part, part_batches
from read_cache.extract.plan import Plan, PlannedSplit, make_manifest
from read_cache.planning.batches import Batches
from read_cache.planning.machine import Record
from read_cache.planning.models import PlannedModel, RandomBackbone
from read_cache.planning.rows import SplitRows
from read_cache.planning.timing import clock, fit, median_seconds
from read_cache.store.layout import Layout
from read_cache.store.quantization import Calibration
from read_cache.store.schema import Form, activation_arrays, calibration_arrays
from read_cache.store.writer import PartBuffer
from read_cache.tasks import Task

RUN_PARAMETERS = 25e6
"""As many layers are run as have about so many weights in an encoder: three of T5-base, one of T5-3B."""
PATHS = 4
"""Of the example whose decoder's tree branches."""
ANY_TASK = Task("any", "{text}", ("no", "yes"))


def pass_key(model: PlannedModel, config: ExtractConfig) -> Record:
    """What these times depend on, besides the machine."""
    names = ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "feed_forward_proj")
    shape = {name: getattr(model.config, name) for name in names}
    stored = {name: getattr(config, name) for name in ("dtype", "attention", "attention_dtype", "rank", "layers")}
    lengths = {"longest": longest(config), "batch_tokens": config.batch_tokens}
    return {"model_type": model.info.model_type, **shape, **stored, "compute_dtype": config.computed_in, **lengths}


def longest(config: ExtractConfig) -> int:
    """Tokens of the longest example that is timed."""
    return max(8, config.max_source_length)


def run_layers(model: PlannedModel) -> int:
    """How many layers of each stack are run."""
    config = model.config
    gated = 3 if config.is_gated_act else 2
    of_layer = config.d_model * (4 * config.num_heads * config.d_kv + gated * config.d_ff)
    return max(1, min(config.num_layers, config.num_decoder_layers, round(RUN_PARAMETERS / of_layer)))


def measure_passes(model: PlannedModel, config: ExtractConfig, device: str) -> Record:
    """By `PASS_FEATURES`: seconds of the pass and of bringing its outputs into a part; and of a calibration.

    The first pass of a process takes longer, as its memory is new.
    """
    layers = run_layers(model)
    backbone = RandomBackbone(model.config, layers, config.computed_in, device)
    most, rows = longest(config), config.batch_tokens
    cases = [(rows // most, most, 1), (rows // (most // 2), most // 2, 1), (rows // (most // 8), most // 8, 1)]
    cases += [(32, most // 4, 1), (16, most // 4, PATHS)]
    batches, passing, taking, first = [], list[float](), list[float](), 0.0
    for examples, tokens, paths in cases:
        case = _Case(model, config, layers, max(1, examples), tokens, paths)
        first = first or clock(lambda case=case: case.forward(backbone))  # type: ignore[misc]
        forward = median_seconds(lambda case=case: case.forward(backbone))  # type: ignore[misc]
        whole = median_seconds(lambda case=case: case.fill(backbone))  # type: ignore[misc]
        batches.append(case.features())
        passing.append(forward)
        taking.append(max(whole - forward, 0.01 * forward))
    features = np.concatenate(batches)
    of_all = (model.info.encoder_layers + model.info.decoder_layers) / (2 * layers)
    form = config.form(model.info.encoder_layers, model.info.decoder_layers, model.info.width)
    states = (len(form.encoder_layers) + 1) / (layers + 1)
    return {
        "layers": layers,
        "warm up": of_all * max(0.0, first - passing[0]),
        "pass": [of_all * each for each in fit(features, passing)],
        "take": [states * each for each in fit(features, taking)],
        "calibrate": _calibration_seconds(form, model.info.width) if form.calibrated else [0.0, 0.0],
    }


class _Case:
    """One batch of random tokens that makes one part."""

    def __init__(
        self, model: PlannedModel, config: ExtractConfig, layers: int, examples: int, tokens: int, paths: int
    ) -> None:
        rng = np.random.default_rng(0)
        parent = np.array([-1] if paths == 1 else [-1] + [0] * paths, np.int32)
        nodes = Nodes(np.zeros_like(parent), parent, np.zeros_like(parent), np.zeros_like(parent))
        ids = [rng.integers(3, 500, size=tokens).astype(np.int32) for _ in range(examples)]
        length = np.full(examples, tokens, np.int32)
        layout = Layout(length, np.full(examples, len(parent), np.int32), np.array([0, examples]))
        nothing = np.zeros(examples, np.int32)
        encoded = EncodedSplit(ids, [nodes] * examples, nothing, nothing.astype(np.float32), 0)
        settings = dataclasses.replace(config, layers="all", batch_tokens=examples * tokens)
        info = dataclasses.replace(model.info, encoder_layers=layers, decoder_layers=layers)
        manifest = make_manifest(settings, ANY_TASK, "", info, "", (), {}, {"train": layout})
        self.plan = Plan(manifest, {"train": PlannedSplit(encoded, np.arange(examples), layout)}, {})
        self.rows = SplitRows(layout, paths, None if paths == 1 else 2)
        shards = {spec.name: manifest.shard(spec, "train") for spec in activation_arrays(manifest.form)}
        images = {name: np.zeros(shard.nbytes, np.uint8) for name, shard in shards.items()}
        self.buffer = PartBuffer("train", 0, shards, images)
        self.calibration = any_calibration(manifest.form, info.width)

    def forward(self, backbone: RandomBackbone) -> None:
        """The pass alone."""
        for _, examples in part_batches(self.plan, "train", 0):
            out = run_backbone(backbone, examples, self.plan.manifest.form.attention != "none")
            out.decoder.last_hidden_state.sum().item()  # an accelerator goes on by itself until it is asked

    def fill(self, backbone: RandomBackbone) -> None:
        """The pass, and its outputs in the part."""
        compute_part(self.plan, backbone, self.buffer, self.calibration)

    def features(self) -> np.ndarray:
        """[1, 5]"""
        return Batches.of(self.rows, [np.arange(len(self.rows.layout.length))]).pass_features()


def any_calibration(form: Form, width: int) -> Calibration | None:
    """Constants of the shape that a form needs, of no meaning; None where it needs none."""
    sizes = {"state": len(form.encoder_layers) + 1, "width": width, "component": form.rank}
    arrays: dict[str, Any] = {}
    for spec in calibration_arrays(form):
        shape = [sizes[axis] for axis in spec.axes]
        arrays[spec.name.removeprefix("calibration/")] = np.full(shape, 0.01, np.float32)
    return Calibration(**arrays) if arrays else None


def _calibration_seconds(form: Form, width: int) -> list[float]:
    """[fixed, a token]: of calibrating every state, once in a process."""
    rng, sizes = np.random.default_rng(0), (512, 2048)
    one = dataclasses.replace(form, encoder_layers=())
    states = [rng.standard_normal((1, tokens, width), dtype=np.float32) for tokens in sizes]
    first = clock(lambda: calibrate(states[1], one))
    few, many = median_seconds(lambda: calibrate(states[0], one)), median_seconds(lambda: calibrate(states[1], one))
    count = len(form.encoder_layers) + 1
    a_token = max(0.0, (many - few) / (sizes[1] - sizes[0]))
    return [count * max(0.0, few - sizes[0] * a_token) + max(0.0, first - many), count * a_token]
