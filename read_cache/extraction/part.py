"""One part: its examples in batches of like length through the backbone, into the bytes of the part's files."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from read_cache.backbones.base import Backbone
from read_cache.backbones.tokens import TokenBatch
from read_cache.errors import UserError
from read_cache.extraction.calibrate import StateEncoder
from read_cache.extraction.plan import Plan
from read_cache.extraction.stored import NonFiniteError, kept_states, stored_arrays
from read_cache.store.files import is_remote
from read_cache.store.folder import StoreFolder
from read_cache.store.layout import triangle
from read_cache.store.manifest import Manifest
from read_cache.store.reader import read_calibration
from read_cache.store.writer import PartBuffer, StoreWriter

PartNumber = tuple[str, int]
"""(split, part)."""


@contextlib.contextmanager
def filler(
    path: str, manifest: Manifest, plan: Plan, backbone: Backbone, alone: bool = True
) -> Iterator[Callable[[PartNumber], PartNumber]]:
    """Yield a function that computes one part, if it is still missing, and returns its number.

    A part is written on a thread while the next one is computed; leaving the context waits for the last one. Fillers
    that share a store batch rows as its plan says, so two that compute the same part give the same bytes. Only one that
    holds the store's lock alone may batch otherwise, to continue after running out of memory. Raises UserError and
    StoreError.
    """
    folder = StoreFolder(path)
    if not alone or is_remote(path):  # an object store has no locks
        plan = dataclasses.replace(plan, manifest=manifest)
    writer = StoreWriter(folder, manifest, alone)
    encoder = StateEncoder.of(read_calibration(folder, manifest), manifest.format, backbone.device)
    pending: list[Future[None]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="part-writer") as pool:

        def fill(number: PartNumber) -> PartNumber:
            if writer.is_missing(*number):
                buffer = writer.part_buffer(*number)
                compute_part(plan, backbone, buffer, encoder)
                if pending:
                    pending.pop().result()
                pending.append(pool.submit(writer.write_part, buffer))
            return number

        yield fill
        if pending:
            pending.pop().result()


def compute_part(plan: Plan, backbone: Backbone, buffer: PartBuffer, encoder: StateEncoder | None) -> None:
    """Fill a part's arrays. Raises UserError for non-finite activations."""
    planned, part = plan.splits[buffer.split], buffer.part
    layout, format = planned.layout, plan.manifest.format
    stacks = {stack.name: stack for stack in backbone.stacks}
    start = {axis: layout.offsets[axis] - part * size for axis, size in layout.sizes.items()}
    target = buffer.arrays
    for rows, batch in part_batches(plan, buffer.split, part, backbone):
        try:
            with torch.inference_mode():
                trace = backbone.forward(batch, attention=format.attention != "none")
                arrays = {name: host(x) for name, x in stored_arrays(backbone, trace, format, encoder).items()}
        except NonFiniteError as error:
            raise _not_finite(plan, buffer.split, rows, error) from error
        for name, values in arrays.items():
            stack = stacks[name.partition("/")[0]]
            kind = {"self_attention": "pair", "cross_attention": "cross"}.get(name.partition("/")[2], "token")
            axis = f"{stack.name}_{kind}"
            lengths = layout.lengths[stack.name]
            sources = layout.lengths[stack.attends_to] if kind == "cross" and stack.attends_to else lengths
            for index, row in enumerate(rows):
                n, first, extent = int(lengths[row]), int(start[axis][row]), int(layout.extents[axis][row])
                if kind == "token":
                    target[name][:, first : first + extent] = values[:, index, :n]
                    continue
                weights = values[..., index, :n, : int(sources[row])]
                if kind == "pair" and stack.causal:
                    flat = weights[(..., *triangle(n))]
                else:
                    flat = weights.reshape(*weights.shape[:-2], extent)
                target[name][..., first : first + extent] = flat


def first_stack_states(plan: Plan, backbone: Backbone, split: str, part: int) -> np.ndarray:
    """Return the kept states of the first stack at every real position of a part, [L+1, N, D] float32."""
    stack, found = backbone.stacks[0], []
    for rows, batch in part_batches(plan, split, part, backbone):
        try:
            with torch.inference_mode():
                trace = backbone.forward(TokenBatch({stack.name: batch.stacks[stack.name]}))
                hidden = kept_states(stack, trace[stack.name], plan.manifest.format)
                found.append(hidden[:, batch.stacks[stack.name].mask].float().cpu().numpy())
        except NonFiniteError as error:
            raise _not_finite(plan, split, rows, error) from error
    return np.concatenate(found, axis=1)


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
    """Yield indices in order of length, cut so that a padded batch has at most `batch_tokens` tokens or one example."""
    batch: list[int] = []
    for index in np.argsort(-length, kind="stable").tolist():
        if batch and (len(batch) + 1) * length[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def host(values: Tensor) -> np.ndarray:
    """Return a tensor's values on the CPU; bfloat16 as uint16 bits."""
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).cpu().numpy().view(np.uint16)
    return values.cpu().numpy()


def _not_finite(plan: Plan, split: str, rows: list[int], error: NonFiniteError) -> UserError:
    numbers = plan.splits[split].arrays["example_id"][rows]
    return UserError(
        f"{split} rows {', '.join(map(str, numbers[:4]))}…: {error}, computed in "
        f"{plan.manifest.activations.compute_dtype}. Nothing of this part was written: set compute_dtype to fp32, or "
        "look at the model's weights"
    )
