"""An epoch from the store against one with the backbone in the loop, frozen or adapted by LoRA; and their memory."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

from read_cache.backbones.t5 import Backbone
from read_cache.bench.case import Case
from read_cache.bench.measure import Facts, Result, Seconds, alternate, ratio
from read_cache.bench.memory import high_water
from read_cache.bench.read import RUN, epoch_order, streamed
from read_cache.errors import UserError
from read_cache.extract.forward import Example, run_backbone
from read_cache.networks.config import ReadConfig
from read_cache.planning.timing import clock
from read_cache.scoring.heads import Head
from read_cache.store.reader import StoreReader
from read_cache.train.grid import NetworkConfig, backbone_shape
from read_cache.train.learner import Learner

SIDES = ("from the store", "frozen backbone in the loop", "LoRA")
BATCHES_SHARE = 8
"""`train` steps over this many times more batches."""
LORA_RANK = 8


def bench_live(case: Case, store: StoreReader) -> Result:
    """Steps of READ RNN-128 and of LoRA (rank 8, q and v) over batches of the same lengths; peak memory of each."""
    _ = case.backbone  # writes the weights
    batches = max(1, case.config.train_batches // BATCHES_SHARE)
    sides = {name: side(name, case.model_folder, store, batches) for name in SIDES}
    seconds: Seconds = alternate({name: partial(clock, steps) for name, steps in sides.items()}, case.config.repeats)
    cached, live, lora = (seconds[name] for name in SIDES)
    ratios = (
        ratio("frozen backbone in the loop / from the store", live, cached, "at least 8"),
        ratio("LoRA / from the store", lora, cached, "at least 25"),
    )
    rows = sum(map(len, epoch_order(store.split("train"))[:batches]))
    facts: Facts = {"shape": case.config.shape, "network": "rnn-128", "rows": rows, "batch_size": RUN.batch_size}
    table: list[Facts] = []
    for name in SIDES:
        row: Facts = {"epoch": name, "rows a second": rows / median(seconds[name])}
        if case.config.peaks:
            row["peak megabytes"] = peak_memory(name, case.model_folder, Path(store.folder.path), batches) / 1e6
        table.append(row)
    return Result("live", facts, seconds, ratios, tuple(table))


def side(name: str, model: Path, store: StoreReader, batches: int) -> Callable[[], None]:
    """What steps once over some batches."""
    learner = Learner(NetworkConfig(ReadConfig("rnn", 128)), RUN, backbone_shape(store.manifest), 1000)
    if name == SIDES[0]:
        return cached_steps(learner, store, batches)
    split = store.split("train")
    examples = [random_examples(split.layout.length[batch]) for batch in epoch_order(split)[:batches]]
    if name == SIDES[1]:
        return live_steps(learner, Backbone(str(model), "bf16"), store, examples)
    return lora_steps(model, examples)


def cached_steps(learner: Learner, store: StoreReader, count: int) -> Callable[[], None]:
    """Batches streamed from the store."""
    batches, head = streamed(store), Head.of(store)
    order = epoch_order(batches.split)[:count]

    def steps() -> None:
        for padded in batches.padded_batches(order):
            learner.train_step(batches.collator.batch(padded), head)

    return steps


def live_steps(
    learner: Learner, backbone: Backbone, store: StoreReader, batches: list[list[Example]]
) -> Callable[[], None]:
    """The backbone's forward pass, then a step on a batch that is ready: making it one is not counted."""
    head, loaded = Head.of(store), streamed(store)
    ready = [
        loaded.collator.batch(padded) for padded in loaded.padded_batches(epoch_order(loaded.split)[: len(batches)])
    ]

    def steps() -> None:
        for examples, batch in zip(batches, ready, strict=True):
            run_backbone(backbone, examples, attention=True)
            learner.train_step(batch, head)

    return steps


def lora_steps(model: Path, batches: list[list[Example]]) -> Callable[[], None]:
    """LoRA on the queries and values of every layer, as peft does it, in bf16, without attention weights asked for."""
    try:
        import peft
    except ImportError as error:
        raise UserError("the part live compares with LoRA: pip install peft") from error
    transformers.logging.set_verbosity_error()
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(model, dtype=torch.bfloat16)
    config = peft.LoraConfig(r=LORA_RANK, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft calls what transformers is about to rename
        adapted = peft.get_peft_model(loaded, config).train()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def steps() -> None:
        for examples in batches:
            ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(e.input_ids) for e in examples], batch_first=True)
            loss = adapted(input_ids=ids, attention_mask=(ids > 0).long(), labels=ids[:, :1].contiguous()).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, RUN.clip)
            optimizer.step()
            optimizer.zero_grad()

    return steps


def random_examples(lengths: np.ndarray) -> list[Example]:
    """Examples of these lengths with random tokens and one decoder node."""
    rng = np.random.default_rng(0)
    node = np.zeros(1, np.int64), np.full(1, -1, np.int64)
    return [Example(rng.integers(3, 32000, size=int(length)), *node) for length in lengths]


def peak_memory(name: str, model: Path, store: Path, batches: int) -> int:
    """Peak resident bytes of a process that does nothing but that side's steps."""
    command = [sys.executable, "-m", "read_cache.bench.live", name, str(model), str(store), str(batches)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def main(name: str, model: str, store: str, batches: str) -> None:
    """One side, once."""
    side(name, Path(model), StoreReader(store), int(batches))()
    found: dict[str, Any] = {"peak_bytes": high_water()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
