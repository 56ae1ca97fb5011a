"""One stage in a process of its own, as the commands run it: its seconds, and its peak memory.

`python -m read_cache.bench.stages extract|train|live JSON`, where JSON is a `Stage`. What a stage does not need is not
imported: it would count.
"""

import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from read_cache.allocator import keep_few_kernels, keep_freed_memory
from read_cache.bench.memory import high_water
from read_cache.planning.timing import clock

EPOCHS = 4
"""Of training; the first warms up, and the median of the others counts."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is run."""

    model: str
    task: str
    dataset: str | None
    store: str
    extract: dict[str, Any]
    """Settings of `ExtractConfig`."""
    cell: str
    networks: int
    memory: float
    """GB for parts of the store."""


def measure_stage(name: str, stage: Stage) -> dict[str, float]:
    """seconds and peak_bytes of a stage, run alone."""
    command = [sys.executable, "-m", "read_cache.bench.stages", name, json.dumps(dataclasses.asdict(stage))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def extract(stage: Stage) -> float:
    """Filling and sealing a store; the rows are tokenised and the weights loaded before the clock starts."""
    from read_cache.backbones.t5 import Backbone
    from read_cache.extract.config import ExtractConfig
    from read_cache.extract.extraction import fill_store, open_store
    from read_cache.extract.plan import make_plan
    from read_cache.store.manifest import StoreFolder
    from read_cache.tasks import find_task

    keep_few_kernels()
    config = ExtractConfig(**stage.extract)
    backbone = Backbone(stage.model, config.computed_in)
    plan = make_plan(backbone, find_task(stage.task), stage.dataset, config)
    backbone.head_scale()

    def fill() -> None:
        writer = open_store(StoreFolder(Path(stage.store)), plan, backbone)
        assert writer is not None
        fill_store(writer, plan, backbone)

    return clock(fill)


def train(stage: Stage) -> float:
    """An epoch of training from the store, its validation included."""
    from read_cache.store.manifest import StoreFolder
    from read_cache.train.loop import Progress
    from read_cache.train.run import train_store

    ends: list[float] = []
    progress = Progress(epoch=lambda task, epoch, epochs, learners: ends.append(time.perf_counter()))
    folder, out = StoreFolder(Path(stage.store)), Path(f"{stage.store}-networks")
    run = dataclasses.replace(_run(), epochs=EPOCHS)
    train_store(folder, out, _networks(stage), run, progress=progress, memory=stage.memory)
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def live(stage: Stage) -> float:
    """The same epoch with the backbone in the loop: its pass before every step. The step's batch is ready before."""
    import torch

    from read_cache.backbones.t5 import Backbone
    from read_cache.extract.forward import Example, run_backbone
    from read_cache.loader.batches import SplitBatches, make_collator
    from read_cache.loader.collate import PaddedExamples
    from read_cache.loader.order import epoch_batches, store_batches
    from read_cache.loader.statistics import channel_statistics
    from read_cache.scoring.heads import Head
    from read_cache.store.reader import StoreReader
    from read_cache.train.grid import backbone_shape
    from read_cache.train.learner import Learner

    store, run = StoreReader(stage.store), _run()
    backbone, head, collator = Backbone(stage.model, store.manifest.compute_dtype), Head.of(store), make_collator(store)
    shape = backbone_shape(store.manifest)
    learners = [Learner(network, run, shape, 1000) for network in _networks(stage)]
    work = []
    for name in ("train", "validation"):
        split = store.split(name)
        batches, plan, layout = SplitBatches(split, collator, run.batch_size), split.plan, split.layout
        if name == "train":
            for learner in learners:
                learner.network.set_statistics(*channel_statistics(batches))
            order = epoch_batches(layout.part_start, layout.length, run.batch_size, run.window, run.order_seed, 0)
        else:
            order = store_batches(split.examples, run.batch_size)
        for rows, padded in zip(order, batches.padded_batches(order), strict=True):
            examples = []
            for row in rows:
                tokens = slice(plan["token_offset"][row], plan["token_offset"][row] + plan["length"][row])
                nodes = slice(plan["node_offset"][row], plan["node_offset"][row] + plan["nodes"][row])
                node_token, node_parent = plan["node_token"][nodes], plan["node_parent"][nodes]
                examples.append(Example(plan["input_ids"][tokens], node_token, node_parent))
            work.append((name, examples, padded))
    attention = store.manifest.form.attention != "none"

    def step(name: str, examples: list[Example], padded: PaddedExamples) -> None:
        run_backbone(backbone, examples, attention)
        batch = collator.batch(padded)
        for learner in learners:
            if name == "train":
                learner.train_step(batch, head)
            else:
                with torch.inference_mode():
                    head.scores(learner.network(batch), batch)

    for name in ("train", "validation"):  # the longest batches first, so that all memory is at hand
        step(*max((one for one in work if one[0] == name), key=lambda one: max(one[2].tokens)))

    def epoch() -> None:
        for one in work:
            step(*one)

    return clock(epoch)


def _run() -> Any:
    from read_cache.train.grid import TrainConfig

    return TrainConfig()


def _networks(stage: Stage) -> list[Any]:
    from read_cache.networks.config import ReadConfig
    from read_cache.train.grid import NetworkConfig

    return [NetworkConfig(ReadConfig(stage.cell), seed=seed) for seed in range(stage.networks)]  # type: ignore[arg-type]


def main(name: str, stage: str) -> None:
    """Run one stage and print what it took."""
    keep_freed_memory()
    seconds = {"extract": extract, "train": train, "live": live}[name](Stage(**json.loads(stage)))
    print(json.dumps({"seconds": seconds, "peak_bytes": high_water()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
