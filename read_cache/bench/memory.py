"""`python -m read_cache.bench.memory STORE BYTES EPOCHS` prints the peak of resident memory over what it was at first.

A process of its own, since a peak cannot be taken back. VmHWM is read, not getrusage's ru_maxrss, which in a child
begins with the peak of the process that started it.
"""

import json
import sys
from pathlib import Path

from read_cache.allocator import keep_freed_memory
from read_cache.loader.batches import SplitBatches, make_collator, split_size
from read_cache.loader.tiers import assign_tiers
from read_cache.store.reader import StoreReader
from read_cache.train.grid import TrainConfig


def main(path: str, memory_bytes: float, epochs: int) -> None:
    """Stream every batch once, as the trainer gets it."""
    keep_freed_memory()
    run, store = TrainConfig(), StoreReader(path)
    split, collator = store.split("train"), make_collator(store)
    tier = assign_tiers({split.name: split_size(split, collator)}, run.window, memory_bytes, 0)[split.name]
    batches = SplitBatches(split, collator, run.batch_size, run.window, tier)
    before = high_water()
    for epoch in range(epochs):
        for _ in batches.epoch(run.order_seed, epoch):
            pass
    print(json.dumps({"peak_bytes": high_water() - before, "tier": tier}))


def high_water() -> int:
    """The most resident memory this process has had, in bytes. Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
