"""One part: its examples in batches of like length through the backbone, into the bytes of its files."""

from collections.abc import Iterator

import numpy as np

from read_cache.backbones.t5 import Backbone
from read_cache.errors import UserError
from read_cache.extract.forward import Example, NonFiniteError, example_activations
from read_cache.extract.plan import Plan
from read_cache.store.quantization import Calibration
from read_cache.store.schema import Form, activation_arrays
from read_cache.store.writer import PartBuffer


def compute_part(plan: Plan, backbone: Backbone, buffer: PartBuffer, calibration: Calibration | None) -> None:
    """Fill a part. Raises UserError for non-finite activations."""
    split, part = buffer.split, buffer.part
    layout, first = plan.splits[split].layout, plan.splits[split].layout.examples(part).start
    place = {axis: layout.offsets[axis] - part * size for axis, size in layout.sizes.items()}
    specs, target = activation_arrays(plan.manifest.form), buffer.arrays
    for index, arrays in part_activations(plan, backbone, split, part, plan.manifest.form, calibration):
        for spec in specs:
            axis = spec.flat_axis or ""
            start = int(place[axis][first + index])
            stop = start + int(layout.extents[axis][first + index])
            target[spec.name][(slice(None),) * spec.axes.index(axis) + (slice(start, stop),)] = arrays[spec.name]


def part_activations(
    plan: Plan, backbone: Backbone, split: str, part: int, form: Form, calibration: Calibration | None
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(place in the part, activations by array name) of each example of a part, longest first."""
    planned = plan.splits[split]
    rows = planned.order[planned.layout.examples(part)]
    for batch, examples in part_batches(plan, split, part):
        try:
            outputs = example_activations(backbone, examples, form, calibration)
        except NonFiniteError as error:
            raise UserError(
                f"{split} rows {', '.join(str(rows[index]) for index in batch[:4])}…: {error}, computed in "
                f"{plan.manifest.compute_dtype}. Nothing of this part was written: use --compute-dtype fp32, or look "
                "at the model's weights"
            ) from error
        yield from zip(batch, outputs, strict=True)


def part_batches(plan: Plan, split: str, part: int) -> Iterator[tuple[list[int], list[Example]]]:
    """(places in the part, examples) of each batch that the backbone is run on."""
    planned = plan.splits[split]
    place = planned.layout.examples(part)
    rows = planned.order[place]
    for batch in length_batches(planned.layout.length[place], plan.manifest.batch_tokens):
        nodes = [planned.encoded.nodes[rows[index]] for index in batch]
        yield (
            batch,
            [
                Example(planned.encoded.input_ids[rows[index]], node.token, node.parent)
                for index, node in zip(batch, nodes, strict=True)
            ],
        )


def length_batches(length: np.ndarray, batch_tokens: int) -> Iterator[list[int]]:
    """Indices in order of length, cut so that a padded batch has at most `batch_tokens` tokens (or one example)."""
    batch: list[int] = []
    for index in np.argsort(-length, kind="stable").tolist():
        if batch and (len(batch) + 1) * length[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
