"""Simulate the extraction of a large store by many workers: `python -m read_cache.bench.scale glue workers=64`.

Workers take parts as `extraction.fill` does, and claim none: two workers at the same part compute it twice. A part is
written while the next one is computed. A failure loses the part in computation and the one that is being written.
docs/scale.md explains the cases and their sources.
"""

import argparse
import dataclasses
import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from read_cache.store.lock import Worker
from read_cache.store.schema import Format, activation_arrays
from read_cache.store.spec import BackboneSpec, StackSpec

PUT_DOLLARS, GET_DOLLARS, MONTH_DOLLARS = 5e-6, 4e-7, 0.023e-9
"""Price of a request that writes or lists, of a request that reads, and of a byte for a month."""


@dataclasses.dataclass
class Job:
    """An extraction."""

    tokens: float  # positions of all rows
    flops_per_token: float  # operations of the forward pass
    bytes_per_token: float  # in the store
    arrays: float  # files of one part
    part_tokens: float = 8192  # tokens of one part
    workers: float = 8  # GPUs, each with one worker
    flops: float = 4e14  # operations a second that a GPU reaches
    start_seconds: float = 300  # to load the model and to tokenise
    write_rate: float = 1e9  # bytes a second of one worker
    store_rate: float = 1e11  # bytes a second of all workers
    request_seconds: float = 0.1  # one small request
    failure_hours: float = 50_000  # mean time of one GPU to a failure; 0: none
    restart_seconds: float = 600  # until a failed worker starts again
    slow: float = 0.02  # share of workers at half the speed
    seed: float = 0  # of failures and slow workers


@dataclasses.dataclass
class Outcome:
    """The result of a simulation. A check for a mark is a request that reads, and one that lists if it is absent."""

    seconds: float
    parts: list[int]  # that each worker has computed
    twice: int  # parts that were computed once more
    failures: int
    reads: int  # requests
    writes: int  # requests that write or list


def simulate(
    job: Job, part_seconds: Sequence[float] = (), starts: Sequence[float] = (), failures: Mapping[int, float] = {}
) -> Outcome:
    """Return what happens.

    Measured values of each worker may be given: seconds of a part, seconds of its start, and the time of one failure.
    """
    rng, workers = np.random.default_rng(int(job.seed)), int(job.workers)
    count = math.ceil(job.tokens / job.part_tokens)
    slow = np.where(rng.random(workers) < job.slow, 2, 1)
    compute = part_seconds or (slow * job.part_tokens * job.flops_per_token / job.flops).tolist()
    write = job.part_tokens * job.bytes_per_token / min(job.write_rate, job.store_rate / workers)
    write += (job.arrays + 4) * job.request_seconds
    pages = math.ceil(count * (job.arrays + 1) / 1000)
    listing = pages * job.request_seconds
    start = starts or [job.start_seconds + listing] * workers
    mean = job.failure_hours * 3600 or math.inf
    fails = [failures.get(worker, math.inf if failures else rng.exponential(mean)) for worker in range(workers)]
    done, todo, last, written = np.full(count, math.inf), [list[int]()] * workers, [0] * workers, [0.0] * workers
    computed, checks, listings, failed, sealed = [0] * workers, 0, 1, 0, 0.0  # the listing before the seal
    events = [(seconds, worker) for worker, seconds in enumerate(start)]
    heapq.heapify(events)
    while events:
        now, worker = heapq.heappop(events)
        queue, ready = todo[worker], now
        while queue and done[queue[-1]] <= now:  # another worker has written it
            queue.pop()
            checks, ready = checks + 1, ready + job.request_seconds
        if queue:
            ready = max(ready + 2 * job.request_seconds + compute[worker], written[worker])
        else:
            ready = max(ready + listing, written[worker])
        if fails[worker] < ready:
            if computed[worker] and fails[worker] < done[last[worker]]:
                done[last[worker]] = math.inf
            heapq.heappush(events, (fails[worker] + job.restart_seconds + start[worker], worker))
            todo[worker], written[worker], failed = [], 0.0, failed + 1
            fails[worker] = math.inf if failures else fails[worker] + rng.exponential(mean)
        elif queue:
            written[worker] = ready + write
            last[worker] = queue.pop()
            done[last[worker]] = min(done[last[worker]], written[worker])
            computed[worker] += 1
            heapq.heappush(events, (ready, worker))
        elif now < written[worker]:
            heapq.heappush(events, (written[worker], worker))
        else:
            listings += 1
            missing = np.flatnonzero(done > now)
            if len(missing):
                turns = Worker(worker + 1, workers).turn(missing)
                taken = missing[turns == turns.min()]
                todo[worker] = (taken if turns.min() else taken[::-1]).tolist()  # the last one is next
                heapq.heappush(events, (ready, worker))
            else:
                sealed = max(sealed, ready + listing)
    listings += workers + failed  # once more at each start
    reads = checks + 2 * sum(computed)  # before a part is computed, and before it is written
    writes = sum(computed) * (int(job.arrays) + 4) + listings * pages
    return Outcome(sealed, computed, sum(computed) - count, failed, reads, writes)


def stored(spec: BackboneSpec, format: Format, entries: dict[str, float]) -> tuple[float, int]:
    """Return the bytes of a token and the files of a part. `entries` are those on each flat axis, per token."""
    total, arrays = 0.0, activation_arrays(spec, format)
    for array in arrays:
        sizes = {"width": spec.width, "component": format.rank, **entries}
        values = math.prod(sizes[axis] for axis in array.axes[1:]) * len(format.array_layers(array.name))
        total += values * np.dtype(array.dtype).itemsize
    return total, len(arrays)


T5 = StackSpec(name="encoder", layers=24, width=1024, heads=128, final_norm=True)
T5_ENTRIES = {"encoder_token": 1, "encoder_pair": 53, "decoder_token": 0.05, "decoder_pair": 0.07, "decoder_cross": 2}
LLAMA = StackSpec(name="decoder", layers=32, width=4096, heads=32, final_norm=True, causal=True)
CASES: dict[str, tuple[Any, ...]] = {
    "glue": ((T5, T5.replaced(name="decoder", causal=True, attends_to="encoder")), T5_ENTRIES, 44e6, 9.7e9, "mean"),
    "7b": ((LLAMA,), {"decoder_token": 1, "decoder_readout": 0.03}, 1e10, 13.5e9, "none"),
}
"""The backbone's stacks, entries of each flat axis per token, tokens, operations per token, attention."""


def main(*words: str) -> None:
    """Print one line for each format of a case. `words` are by default those of the process. Wrong ones: exit 2."""
    known = ", ".join(Job.__dataclass_fields__)
    parser = argparse.ArgumentParser(usage=f"%(prog)s {{{','.join(CASES)}}} [NAME=NUMBER ...], NAME one of {known}")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("setting", nargs="*", type=setting)
    chosen = parser.parse_args(words or None)
    names = dict.fromkeys(("name", "revision", "digest", "family"), chosen.case)
    stacks, entries, tokens, flops, attention = CASES[chosen.case]
    spec = BackboneSpec(**names, parameters=0, stacks=stacks, language_model=True)
    layers = {stack.name: tuple(range(1, stack.layers + 1)) for stack in stacks}
    print("| format | kB a token | TB | hours | GPU hours | failures | computed twice | requests | $ | $ a month |")
    print("|---|" + "---:|" * 9)
    kinds = ("all", "readout") if attention == "none" else ("all",)
    for kind, (dtype, rank, weights) in itertools.product(kinds, (("bf16", 0, "fp16"), ("int8", 128, "uint8"))):
        format = {"dtype": dtype, "rank": rank, "attention": attention, "attention_dtype": weights, "positions": kind}
        size, arrays = stored(spec, Format(**format, layers=layers), entries)
        job = dataclasses.replace(Job(tokens, flops, size, arrays), **dict(chosen.setting))
        end, whole = simulate(job), job.tokens * size
        cells = [f"{size / 1e3:.3g}", f"{whole / 1e12:,.3g}", f"{end.seconds / 3600:.2f}"]
        counts = [end.seconds / 3600 * job.workers, end.failures, end.twice, end.reads + end.writes]
        counts += [end.reads * GET_DOLLARS + end.writes * PUT_DOLLARS, whole * MONTH_DOLLARS]
        label = f"{dtype}{', rank 128' if rank else ''}{', readout' if kind == 'readout' else ''}"
        print("|", " | ".join([label, *cells, *(f"{count:,.0f}" for count in counts)]), "|")


def setting(text: str) -> tuple[str, float]:
    """Return a setting of `Job`, such as workers=64, at least 1, or 0 where that has a meaning. Raises ValueError."""
    name, _, number = text.partition("=")
    low = 0 if name.endswith(("seconds", "hours", "slow", "seed")) else 1
    if name not in Job.__dataclass_fields__ or not low <= float(number) < math.inf:
        raise ValueError(text)
    return name, float(number)


if __name__ == "__main__":
    main()
