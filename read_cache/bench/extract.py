"""Filling a store / the forward pass that it contains; and the bytes a token of every format."""

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
from read_cache.planning.forecast import format_bytes
from read_cache.store.folder import StoreFolder

TARGETS = {"fill, bf16": "at most 1.05", "fill, recommended": "at most 1.08"}


def bench_extract(case: Case) -> Result:
    """Compute, encode, checksum, write and seal, against running the same batches for the same outputs."""
    plans = [case.plan(config.replaced(max_examples=case.extract.max_examples)) for config in (PLAIN, RECOMMENDED)]
    fill = {name: partial(fill_seconds, case, plan) for name, plan in zip(TARGETS, plans, strict=True)}
    seconds = alternate(
        {"forward": partial(clock, partial(forward, plans[0], case.backbone)), **fill}, case.config.repeats
    )
    splits = plans[0].manifest.splits.values()
    rows, tokens = sum(split.examples for split in splits), sum(split.tokens for split in splits)
    facts: Facts = {"rows": rows, "tokens": tokens, "parts": sum(split.parts for split in splits)}
    facts |= {"forward_rows_per_second": rows / median(seconds["forward"])}
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


def bench_size(case: Case) -> Result:
    """Return every format's bytes a token over all rows, by arithmetic."""
    manifest = case.plan(PLAIN).manifest
    rows, tokens = (sum(getattr(split, of) for split in manifest.splits.values()) for of in ("examples", "tokens"))
    sizes = format_bytes(manifest, PLAIN).items()
    table = [{"format": name, "bytes a token": size / tokens} for name, size in sizes]
    return Result({"rows": rows, "tokens": tokens, "mean_tokens": tokens / rows}, table=table)
