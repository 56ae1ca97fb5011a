"""One part: its examples in batches of like length through the backbone, into the bytes of the part's files."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones.base import Backbone
from read_cache.backbones.tokens import TokenBatch
from read_cache.extraction.plan import Plan
from read_cache.extraction.stored import at_readout, calibration_tensors, kept_states, pooling_weights, stored_arrays
from read_cache.store.files import is_remote
from read_cache.store.folder import StoreFolder
from read_cache.store.layout import triangle
from read_cache.store.manifest import Manifest
from read_cache.store.reader import read_calibration
from read_cache.store.schema import activation_arrays
from read_cache.store.writer import PartBuffer, StoreWriter

PartNumber = tuple[str, int]
"""(split, part)."""


@contextlib.contextmanager
def filler(
    path: str, manifest: Manifest, plan: Plan, backbone: Backbone, alone: bool, lost: Collection[PartNumber]
) -> Iterator[Callable[[PartNumber], PartNumber]]:
    """Yield a function that computes one part, if it is still missing, and returns its number.

    A part is written on a thread while the next one is computed; leaving the context waits for the last one. Fillers
    that share a store batch rows as its plan says, so two that compute the same part write the same bytes. Only one
    that holds the store's lock alone may batch otherwise, to continue after running out of memory. Raises UserError
    for activations that are not finite, and StoreError.
    """
    folder = StoreFolder(path)
    if not alone or is_remote(path):  # an object store has no locks
        plan = dataclasses.replace(plan, manifest=manifest)
    writer = StoreWriter(folder, manifest, alone, lost)
    calibration = calibration_tensors(read_calibration(folder, manifest), backbone.device)
    pending: list[Future[None]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="part-writer") as pool:

        def fill(number: PartNumber) -> PartNumber:
            if writer.is_missing(*number):
                buffer = writer.part_buffer(*number)
                compute_part(plan, backbone, buffer, calibration)
                if pending:
                    pending.pop().result()
                pending.append(pool.submit(writer.write_part, buffer))
            return number

        yield fill
        if pending:
            pending.pop().result()


def compute_part(plan: Plan, backbone: Backbone, buffer: PartBuffer, calibration: dict[str, Tensor]) -> None:
    """Fill a part's arrays. Raises UserError for activations that are not finite."""
    layout, spec, format = plan.splits[buffer.split].layout, plan.manifest.backbone, plan.manifest.format
    planned = plan.splits[buffer.split].arrays
    axes = {array.name: array.flat_axis or "" for array in activation_arrays(spec, format)}
    start = {axis: layout.offsets[axis] - buffer.part * size for axis, size in layout.sizes.items()}
    for rows, batch in part_batches(plan, buffer.split, buffer.part, backbone):
        with torch.inference_mode():
            trace, pool = backbone.forward(batch, attention=format.attention != "none"), dict[str, Tensor]()
            for stack in spec.stacks:
                if (kind := format.state_axis(stack.causal)) == "readout":
                    trace[stack.name] = at_readout(trace[stack.name], planned, stack.name, rows)
                elif kind == "pooled":
                    pool[stack.name] = pooling_weights(planned, stack.name, rows, batch.stacks[stack.name].mask)
            arrays = host_arrays(stored_arrays(backbone, trace, format, calibration, pool))
        for name, target in buffer.arrays.items():
            axis, values = axes[name], arrays[name]
            stack = spec.stack(name.partition("/")[0])
            to = layout.lengths[stack.name]
            source = layout.lengths[stack.attends_to if axis.endswith("cross") and stack.attends_to else stack.name]
            for index, row in enumerate(rows):
                n, first, extent = int(to[row]), int(start[axis][row]), int(layout.extents[axis][row])
                if not axis.endswith(("pair", "cross")):
                    target[:, first : first + extent] = values[:, index, :extent]
                    continue
                weights = values[..., index, :n, : int(source[row])]
                if axis.endswith("pair") and stack.causal:
                    flat = weights[(..., *triangle(n))]
                else:
                    flat = weights.reshape(*weights.shape[:-2], extent)
                target[..., first : first + extent] = flat


def first_stack_states(plan: Plan, backbone: Backbone, split: str, part: int) -> np.ndarray:
    """Return the kept states of the first stack at every real position of a part, [L+1, N, D] float32.

    Raises UserError for states that are not finite.
    """
    stack, states = backbone.stacks[0], []
    for _, batch in part_batches(plan, split, part, backbone):
        tokens = batch.stacks[stack.name]
        with torch.inference_mode():
            outputs = backbone.forward(TokenBatch({stack.name: tokens}))[stack.name]
            states.append(kept_states(stack, outputs, plan.manifest.format)[:, tokens.mask].float().cpu().numpy())
    return np.concatenate(states, axis=1)


def part_batches(plan: Plan, split: str, part: int, backbone: Backbone) -> Iterator[tuple[list[int], TokenBatch]]:
    """Yield (examples, their padded tokens on the backbone's device) of each batch that the backbone is run on.

    Examples are counted in the order of the store.
    """
    planned = plan.splits[split]
    examples = planned.layout.examples(part)
    for batch in length_batches(planned.layout.length[examples], plan.manifest.provenance.batch_tokens):
        rows = [examples.start + index for index in batch]
        tokens = TokenBatch.of_plan(plan.manifest.backbone, planned.arrays, rows, backbone.pad_token)
        yield rows, tokens.to(backbone.device)


def length_batches(length: np.ndarray, batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices, longest first, cut so that a padded batch has at most `batch_tokens` tokens or one example."""
    batch: list[int] = []
    for index in np.argsort(-length, kind="stable").tolist():
        if batch and (len(batch) + 1) * length[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def host_arrays(arrays: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return arrays on the CPU, bfloat16 as uint16 bits. From CUDA they are copied together, into pinned memory."""
    copies = {}
    for name, values in arrays.items():
        bits = values.view(torch.int16) if values.dtype == torch.bfloat16 else values
        if bits.is_cuda:
            bits = torch.empty_like(bits, device="cpu", pin_memory=True).copy_(bits, non_blocking=True)
        copies[name] = bits.cpu()
    if any(values.is_cuda for values in arrays.values()):
        torch.cuda.synchronize()
    return {
        name: copy.numpy().view(np.uint16) if arrays[name].dtype == torch.bfloat16 else copy.numpy()
        for name, copy in copies.items()
    }
