"""Costs of one training step of a network, measured on the first batches of its first epoch, in one process."""

import contextlib
import gc
import itertools
import statistics
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from read_cache.loader.batches import SplitBatches
from read_cache.settings import Record

if TYPE_CHECKING:
    from read_cache.training.run import Prepared

TIMED = 5
"""Steps that are timed, after two that are not."""


class StepCost(Record):
    """Costs of one training step. Bytes and operations are exact and belong to the first batch; times are measured."""

    device: str
    """Type of the device, such as cpu or cuda."""
    kept_bytes: int
    """Bytes that backward keeps, as `kept_bytes` counts them."""
    flops: int
    """Floating-point operations of matrix products, forward and backward; elementwise operations are not counted."""
    seconds_per_step: float
    """Median of `TIMED` steps, each with reading and padding its batch."""
    counted_memory: int
    """Bytes of all weights (the backbone's where it runs), moving averages, gradients, AdamW's states, `kept_bytes`."""
    accelerator_memory_max: int | None = None
    """Peak of the tensors' bytes on the accelerator in the timed steps; None on a processor."""


class _Total(contextlib.nullcontext[None]):
    """Stands in for the counter's hooks on modules, which fail where a backward pass runs another, as MEFT's does."""

    parents = ("Global",)


def count_operations() -> FlopCounterMode:
    """Return a context that counts the floating-point operations of matrix products."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Total()  # type: ignore[assignment]
    return counter


def measure_step(prepared: "Prepared", order_seed: int) -> StepCost:
    """Measure the first learner of a work unit, which takes steps. A split on the accelerator is streamed instead."""
    (learner, *_), batches = prepared.learners, prepared.splits["train"]
    del prepared
    if isinstance(batches, SplitBatches):  # a held split would count as the network's memory
        batches = SplitBatches(batches.split, batches.collator, batches.batch_size, batches.window, "streamed")
    order = itertools.chain.from_iterable(batches.epoch(order_seed, epoch) for epoch in itertools.count())
    device = next(iter(learner.parameters.values())).device
    on_board = device.type == "cuda"
    learner.model.train()
    with count_operations() as making:  # a frozen backbone runs where batches are made
        first = next(order)
    kept = kept_bytes(learner.model, first, learner.generator)
    with count_operations() as stepping:
        learner.train_step(first)
    learner.train_step(next(order))
    if on_board:  # AdamW's states exist by now, and earlier networks are gone
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(TIMED):
        started = time.perf_counter()
        learner.train_step(next(order))
        if on_board:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    backbone = getattr(batches, "backbone", None)
    held = [*learner.model.parameters(), *learner.average.values(), *(backbone.module.parameters() if backbone else ())]
    weights = sum(weight.nbytes for weight in {id(weight): weight for weight in held}.values())
    return StepCost(
        device=device.type,
        kept_bytes=kept,
        flops=making.get_total_flops() + stepping.get_total_flops(),
        seconds_per_step=statistics.median(seconds),
        counted_memory=weights + step_bytes(learner.parameters.values(), kept),
        accelerator_memory_max=torch.cuda.max_memory_allocated(device) if on_board else None,
    )


def step_bytes(trained: Iterable[Tensor], kept: int) -> int:
    """Return the bytes of a step beside the weights: gradients, two states of AdamW, and what backward keeps."""
    return 3 * sum(weight.nbytes for weight in trained) + kept


class _Saved:
    """A tensor that autograd holds for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # a saved output would hold its own graph, and never be freed


def kept_bytes(model: nn.Module, batch: Any, generator: torch.Generator | None = None) -> int:
    """Return the bytes that autograd keeps from a forward pass until its backward pass.

    Each storage counts once. Tensors that the model holds do not count: parameters, buffers, rows of a frozen head. The
    batch counts where backward reads it, and so does a copy of a weight in another precision.
    """
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        holder = _Saved(tensor)
        saved.add(holder)
        return holder

    with saved_tensors_hooks(pack, lambda holder: holder.tensor):
        loss = model(batch, generator)
    storages = {storage._cdata: storage for storage in (holder.tensor.untyped_storage() for holder in saved)}
    own = {tensor.untyped_storage()._cdata for tensor in _held(model)}  # a fake tensor has no data_ptr
    del loss
    return sum(storage.nbytes() for address, storage in storages.items() if address not in own)


def _held(model: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor that a module or a part of it holds."""
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))
