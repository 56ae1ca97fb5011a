"""Filling a store against the forward pass it cannot do without."""

import shutil
import time

import torch

from read_cache.backbones.t5 import Backbone
from read_cache.bench.case import Case
from read_cache.bench.measure import Result, alternate, ratio
from read_cache.extract.extraction import fill_store, open_store
from read_cache.extract.forward import run_backbone
from read_cache.extract.parts import part_batches
from read_cache.extract.plan import Plan, make_plan
from read_cache.planning.timing import clock
from read_cache.store.manifest import StoreFolder
from read_cache.store.reader import array_bytes


def bench_extract(case: Case) -> Result:
    """Compute, encode, checksum, write and seal, against running the same batches for the same outputs."""
    backbone = case.backbone
    backbone.info()  # weights are loaded and digested before the clock starts
    started = time.perf_counter()
    plan = make_plan(backbone, case.task, case.config.dataset, case.extract)
    planning = time.perf_counter() - started
    planned = sum(len(split.encoded.input_ids) for split in plan.splits.values())
    seconds = alternate(
        {"fill": lambda: fill_seconds(case, plan), "forward": lambda: clock(lambda: forward(plan, backbone))},
        case.config.repeats,
    )
    splits = plan.manifest.splits.values()
    rows, tokens = sum(split.examples for split in splits), sum(split.tokens for split in splits)
    result = ratio("fill / forward", seconds["fill"], seconds["forward"], "at most 1.05")
    return Result(
        "extract",
        {
            "shape": case.config.shape,
            "rows": rows,
            "tokens": tokens,
            "parts": sum(split.parts for split in splits),
            "part_tokens": plan.manifest.part_tokens,
            "store_megabytes": sum(array_bytes(plan.manifest).values()) / 1e6,
            "forward_rows_per_second": rows / sorted(seconds["forward"])[len(seconds["forward"]) // 2],
            "planned_rows": planned,
            "planning_seconds": planning,
        },
        seconds,
        (result,),
    )


def fill_seconds(case: Case, plan: Plan) -> float:
    """Seconds to fill and seal a new store. Planning it is not counted, nor is removing it."""
    path = case.folder / "filled"
    writer = open_store(StoreFolder(path), plan, case.backbone)
    assert writer is not None
    seconds = clock(lambda: fill_store(writer, plan, case.backbone))
    shutil.rmtree(path)
    return seconds


@torch.inference_mode()
def forward(plan: Plan, backbone: Backbone) -> None:
    """Every batch of a plan through the backbone, hidden states and attention weights asked for and dropped."""
    for split, planned in plan.splits.items():
        for part in range(planned.layout.parts):
            for _, examples in part_batches(plan, split, part):
                run_backbone(backbone, examples, plan.manifest.form.attention != "none")
