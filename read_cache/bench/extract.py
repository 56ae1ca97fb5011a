"""Filling a store / the forward pass that it contains."""

import shutil
from functools import partial
from statistics import median

import torch

from read_cache.backbones import Backbone
from read_cache.bench.case import PLAIN, RECOMMENDED, Case
from read_cache.bench.measure import Facts, Result, alternate, clock, ratio
from read_cache.extraction.fill import fill_store, open_store
from read_cache.extraction.part import part_batches
from read_cache.extraction.plan import Plan
from read_cache.store.folder import StoreFolder
from read_cache.store.reader import array_bytes

TARGETS = {"fill, bf16": "at most 1.05", "fill, recommended": "at most 1.08"}


def bench_extract(case: Case, batch_tokens: int = PLAIN.batch_tokens) -> Result:
    """Compute, encode, checksum, write and seal, against running the same batches for the same outputs."""
    changes = {"max_examples": case.config.rows // 3, "batch_tokens": batch_tokens}
    plans = [case.plan(config.replaced(**changes)) for config in (PLAIN, RECOMMENDED)]
    sides = {"forward": partial(clock, partial(forward, plans[0], case.backbone))}
    sides |= {name: partial(fill_seconds, case, plan) for name, plan in zip(TARGETS, plans, strict=True)}
    seconds = alternate(sides, case.config.repeats)
    splits = plans[0].manifest.splits.values()
    rows, tokens = sum(split.examples for split in splits), sum(split.tokens for split in splits)
    facts: Facts = {"rows": rows, "tokens": tokens, "parts": sum(split.parts for split in splits)}
    facts |= {"forward_rows_per_second": rows / median(seconds["forward"])}
    for name, plan in zip(TARGETS, plans, strict=True):
        facts[f"{name}, tokens/s"] = tokens / median(seconds[name])
        facts[f"{name}, GB/s"] = sum(array_bytes(plan.manifest).values()) / median(seconds[name]) / 1e9
    return Result(facts, seconds, [ratio(seconds, name, "forward", target) for name, target in TARGETS.items()])


def fill_seconds(case: Case, plan: Plan) -> float:
    """Return the seconds that filling and sealing a new store take; planning and calibrating it are not counted."""
    path = case.folder / "filled"
    writer = open_store(StoreFolder(path), plan, case.backbone)
    assert writer is not None
    seconds = clock(lambda: fill_store(writer, plan, case.backbone))
    shutil.rmtree(path)
    return seconds


@torch.inference_mode()
def forward(plan: Plan, backbone: Backbone) -> None:
    """Run every batch of a plan for its hidden states and attention weights, and drop them."""
    for split, planned in plan.splits.items():
        for part in range(planned.layout.parts):
            for _, batch in part_batches(plan, split, part, backbone):
                backbone.forward(batch, attention=True)
