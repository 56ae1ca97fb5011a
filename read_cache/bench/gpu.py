"""One GPU against the processor, and against its own rates: `make gpu-check`."""

import argparse
import sys
import tempfile
import timeit
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from read_cache.api.extraction import extract
from read_cache.bench.case import QUICK, BenchConfig, Case, random_store
from read_cache.bench.extract import bench_extract
from read_cache.bench.measure import alternate, clock, drain
from read_cache.bench.train import RUN, epoch_order, streamed
from read_cache.config import Place
from read_cache.loader.batch import Batch
from read_cache.loader.batches import SplitBatches
from read_cache.meters.machine import machine_facts
from read_cache.meters.meter import meter_stage
from read_cache.meters.readings import summary
from read_cache.networks.read import ReadConfig
from read_cache.training.from_store import FromStore
from read_cache.training.learner import Learner
from read_cache.training.network_config import NetworkConfig
from read_cache.training.run import Prepared
from read_cache.training.stack import Stack, steppers
from read_cache.training.step_cost import count_operations

CASES = {"cuda": BenchConfig(rows=3000), "cpu": QUICK.replaced(rows=12, store_megabytes=8)}
WIDTHS = {"cuda": 16384, "cpu": 512}
"""Width of the square bf16 matrix that is copied and multiplied."""
COUNTS = (1, 8, 32)
"""Networks in one pass."""
TOLERANCES = {"fp32": 1e-4, "bf16": 0.03}
"""Largest |a - b| / |b| of a layer's values a on the device and b on the processor, by Euclidean norms."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the check. Return 0; 1 if the device's results differ from the processor's, 2 without a CUDA device."""
    parser = argparse.ArgumentParser(prog="gpu-check", description="Compare one GPU with the processor, and time it.")
    parser.add_argument("--device", choices=CASES, default="cuda", help="cpu: a tiny case. [default: cuda]")
    device = parser.parse_args(arguments).device
    if device == "cuda" and not torch.cuda.is_available():
        print("No CUDA device was found; `make gpu-check DEVICE=cpu` runs on the processor.", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name() if device == "cuda" else machine_facts()["cpu"]
    print(f"{name}, torch {torch.__version__}\n\n| what | measured | target | |\n|---|---:|---|---|")
    with tempfile.TemporaryDirectory(prefix="read-cache-bench-") as temporary:
        case = Case(CASES[device], Path(temporary), device)
        equal = check_states(case)
        with meter_stage("extraction", device) as extraction:
            result = bench_extract(case, batch_tokens=32768)
        for fact, value in result.facts.items():
            show(f"extraction: {fact.replace('_', ' ')}", value)
        for ratio in result.ratios:
            show(f"extraction: {ratio['ratio']}", ratio["median"], ratio["target"])
        with meter_stage("training", device) as training:
            equal &= check_training(case)
    print("", summary(extraction.read()), summary(training.read()), sep="\n")
    return 0 if equal else 1


def show(what: str, value: float, target: str = "at least 0") -> bool:
    """Print a row of the table. Return True if the value meets the target; at least 0 is no target."""
    _, sense, limit = target.split()
    met = value <= float(limit) if sense == "most" else value >= float(limit)
    end = f"{target} | {'met' if met else '**missed**'}" if float(limit) else " | "
    print(f"| {what} | {f'{value:,.0f}' if value >= 1000 else f'{value:.3g}'} | {end} |", flush=True)
    return met


def show_difference(what: str, pairs: Iterable[tuple[Tensor, Tensor]], dtype: str) -> bool:
    """Print the largest difference of a layer in pairs [layer, ...] of device and processor; return True if small."""
    flat = [[values.cpu().double().flatten(1) for values in pair] for pair in pairs]
    differences = torch.cat([(a - b).norm(dim=1) / b.norm(dim=1) for a, b in flat])  # the maximum with a NaN is NaN
    return show(f"{what}: difference from the processor", float(differences.max()), f"at most {TOLERANCES[dtype]}")


def check_states(case: Case) -> bool:
    """Extract rows on the device and on the processor. Return True if states and attention weights are equal."""
    equal = []
    for dtype in TOLERANCES:
        device, processor = (extracted(case, dtype, *side) for side in enumerate((case.device, "cpu")))
        equal.append(show_difference(f"extraction in {dtype}", zip(device, processor, strict=True), dtype))
    return all(equal)


def extracted(case: Case, dtype: str, number: int, device: str) -> list[Tensor]:
    """Extract on a device. Return normalised states and attention weights, [layer, B, ...] each, of one batch."""
    settings: dict[str, Any] = {"dtype": dtype, "device": device, "max_examples": 8}
    store = extract(str(case.model), case.config.task, case.folder / f"{dtype}-{number}", **settings)
    stacks = next(streamed(store).in_order()).stacks.values()
    kinds = ("self_attention", "cross_attention")
    weights = [
        stack.attention(kind, torch.float32) for stack in stacks for kind in kinds if getattr(stack, kind) is not None
    ]
    return [stack.whole_states() for stack in stacks] + weights


def check_training(case: Case) -> bool:
    """Print the rates of training READ RNN-128 in groups. Return True if a trained network's outputs are equal."""
    setup = FromStore(random_store(case).folder)
    networks = [NetworkConfig(kind="read", settings=ReadConfig(cell="rnn"), seed=seed) for seed in range(sum(COUNTS))]
    prepared = setup.prepare(networks, RUN, Place(device=case.device))
    batches, learners = prepared.splits["train"], iter(prepared.learners)
    groups = {f"K = {K}": next(steppers(list(islice(learners, K)), stacked=True)) for K in COUNTS}
    order = epoch_order(batches.split, case.config.train_batches)

    def train(name: str) -> None:
        drain(map(groups[name].train_step, islice(batches.epoch(RUN.order_seed, 0), len(order))))

    seconds = alternate({name: partial(clock, partial(train, name)) for name in groups}, case.config.repeats)
    rates, first = device_rates(case.device), next(batches.epoch(RUN.order_seed, 0))
    for name, group in groups.items():
        taken = median(seconds[name])
        show(f"training, {name}: rows/s", sum(map(len, order)) / taken)
        least = {rate: len(order) * work / rates[rate] for rate, work in step_work(group, first).items()}
        binding = max(least, key=least.__getitem__)
        show(f"training, {name}: share of the {binding} rate, which binds", least[binding] / taken, "at least 0.5")
    one, *_, many = (median(times) / K for times, K in zip(seconds.values(), COUNTS, strict=True))
    show(f"training: a pass of {COUNTS[-1]} networks / {COUNTS[-1]} passes of one", many / one, "at most 0.1")
    assert isinstance(batches, SplitBatches)
    pinned = SplitBatches(batches.split, batches.collator, RUN.batch_size, RUN.window, tier="streamed")
    seconds = alternate({"pinned": partial(clock, lambda: drain(pinned.in_order()))}, case.config.repeats)
    show("copying batches to the device: rows/s", pinned.split.examples / median(seconds["pinned"]))
    pairs = zip(batches.in_order(), pinned.in_order(), strict=True)
    copied = [(a.stacks[name].values, b.stacks[name].values) for a, b in islice(pairs, 8) for name in a.stacks]
    equal = show_difference("batches that were copied", copied, "fp32")
    alone = setup.prepare(networks[:1], RUN, Place())
    alone.learners[0].model.load_state_dict(prepared.learners[0].model.state_dict())
    return equal & show_difference("trained network", [(corrections(prepared), corrections(alone))], "fp32")


def device_rates(device: str, repeats: int = 20) -> dict[str, float]:
    """Return the bytes/s that a copy reads and writes, and the operations/s of a matrix product in bf16."""
    matrix = torch.rand(WIDTHS[device], WIDTHS[device], device=device).bfloat16()
    target, rates = torch.empty_like(matrix), {}
    loops = {"copy": partial(target.copy_, matrix), "matrix": partial(torch.mm, matrix, matrix)}
    for (name, loop), work in zip(loops.items(), (2 * matrix.nbytes, 2 * len(matrix) ** 3), strict=True):
        clock(loop)
        rates[name] = repeats * work / clock(partial(timeit.timeit, loop, number=repeats))
        show(f"{name} rate, 10^9 {'bytes' if name == 'copy' else 'operations'}/s", rates[name] / 1e9)
    return rates


def step_work(group: Learner | Stack, batch: Batch) -> dict[str, float]:
    """Return the least work of a step by rate: bytes that backward keeps, written and read; operations of products."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # a saved output would hold its own graph

    with count_operations() as counter, saved_tensors_hooks(pack, lambda tensor: tensor):
        group.train_step(batch)
    return {"copy": 2 * sum(kept.values()), "matrix": counter.get_total_flops()}


@torch.inference_mode()
def corrections(prepared: Prepared) -> Tensor:
    """Return what the first network adds to the final states of a batch, [1, B, T, D] float32."""
    batch = next(prepared.splits["train"].in_order())
    return (prepared.learners[0].model.network.eval()(batch) - batch.final)[None]


if __name__ == "__main__":
    sys.exit(main())
