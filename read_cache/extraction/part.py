"""One part: its examples in batches of like length through the backbone, into the bytes of the part's files."""

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones.base import Backbone
from read_cache.backbones.tokens import TokenBatch
from read_cache.extraction.plan import Plan
from read_cache.extraction.stored import at_readout, kept_states, pooling_weights, stored_arrays
from read_cache.loader.collate import calibration_tensors
from read_cache.store.files import is_remote
from read_cache.store.folder import StoreFolder
from read_cache.store.layout import triangle
from read_cache.store.manifest import Manifest
from read_cache.store.reader import read_calibration
from read_cache.store.schema import activation_arrays
from read_cache.store.writer import PartBuffer, StoreWriter
from read_cache.streams import is_gpu, to_host

PartNumber = tuple[str, int]
"""(split, part)."""
HostArrays = dict[str, np.ndarray]
"""By name, bfloat16 as uint16 bits."""


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
    """Fill a part's arrays. Raises UserError for activations that are not finite.

    On a GPU, a batch's arrays are copied to the host while the backbone runs on the next batch.
    """
    spec, format, layout = plan.manifest.backbone, plan.manifest.format, plan.splits[buffer.split].layout
    planned, behind = plan.splits[buffer.split].arrays, int(is_gpu(backbone.device))
    axes = {array.name: array.flat_axis or "" for array in activation_arrays(spec, format)}
    start = {axis: layout.offsets[axis] - buffer.part * size for axis, size in layout.sizes.items()}

    def place(rows: Sequence[int], arrays: Callable[[], HostArrays]) -> None:
        """Copy the rows of a padded batch, once it is there, to their places in the part."""
        found = arrays()
        for name, target in buffer.arrays.items():
            axis, values = axes[name], found[name]
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

    waiting: deque[tuple[list[int], Callable[[], HostArrays]]] = deque()
    for rows, batch in part_batches(plan, buffer.split, buffer.part, backbone):
        with torch.inference_mode():
            trace, pool = backbone.forward(batch, attention=format.attention != "none"), dict[str, Tensor]()
            for stack in spec.stacks:
                if (kind := format.state_axis(stack.causal)) == "readout":
                    trace[stack.name] = at_readout(trace[stack.name], planned, stack.name, rows)
                elif kind == "pooled":
                    pool[stack.name] = pooling_weights(planned, stack.name, rows, batch.stacks[stack.name].mask)
            waiting.append((rows, host_arrays(stored_arrays(backbone, trace, format, calibration, pool))))
        if len(waiting) > behind:
            place(*waiting.popleft())
    while waiting:
        place(*waiting.popleft())


def first_stack_states(plan: Plan, backbone: Backbone, split: str, part: int) -> np.ndarray:
    """Return the kept states of the first stack at every real position of a part, [L+1, N, D] float32.

    Raises UserError for states that are not finite.
    """
    stack, states = backbone.stacks[0], []
    for _, batch in part_batches(plan, split, part, backbone):
        tokens = batch.stacks[stack.name]
        with torch.inference_mode():
            outputs = backbone.forward(dataclasses.replace(batch, stacks={stack.name: tokens}))[stack.name]
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
        yield rows, backbone.batch(split, planned.arrays, rows)


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


def host_arrays(arrays: Mapping[str, Tensor]) -> Callable[[], HostArrays]:
    """Return a function that waits for arrays and returns them on the host, bfloat16 as uint16 bits."""
    bits = {name: of.view(torch.int16) if of.dtype == torch.bfloat16 else of for name, of in arrays.items()}
    finish = to_host(bits)  # no other array is int16

    def wait() -> HostArrays:
        numpy = {name: values.numpy() for name, values in finish().items()}
        return {name: values.view(np.uint16) if values.dtype == np.int16 else values for name, values in numpy.items()}

    return wait
