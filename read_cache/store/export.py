"""`read_cache.export_states`: the states of a store as numpy arrays, row by row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from read_cache.errors import UserError
from read_cache.store.layout import plan_slices
from read_cache.store.reader import StoreReader
from read_cache.store.schema import Calibration


def export_states(
    store: str | Path | StoreReader, split: str = "train", stack: str | None = None
) -> Iterator[dict[str, Any]]:
    """Return an iterator over the rows of a split in the store's order, in the columns that `import_states` takes.

    `hidden_states` is [states, tokens, width] float32, decoded from the store's format; with positions `readout` or
    `pooled`, it has the entries that `S/readout` or `S/pooled` describe in place of the tokens, and pooled states are
    divided by their root mean square. `example_id` is the number of the row in the dataset. `stack` is by default
    the first. One part is held in memory. Raises UserError for an unknown stack, StoreError for a corrupt file.
    """
    reader = store if isinstance(store, StoreReader) else StoreReader(store)
    task, format, of = reader.manifest.task, reader.manifest.format, reader.split(split)
    stacks, stack = [spec.name for spec in reader.manifest.backbone.stacks], stack or format.first
    if stack not in stacks:
        raise UserError(f"stack is {stack!r}, expected one of {', '.join(stacks)}")
    axis = f"{stack}_{format.state_axis(reader.manifest.backbone.stack(stack).causal)}"
    names = {"token": "input_ids", "segment": "segment"}
    calibration = reader.calibration if stack == format.first else None

    def rows() -> Iterator[dict[str, Any]]:
        for part in range(of.parts):
            hidden = of.read_array(f"{stack}/hidden", part)
            rms = of.read_array(f"{stack}/rms", part) if f"{stack}/rms" in of.specs else None
            examples = of.layout.examples(part)
            for row in range(examples.start, examples.stop):
                first = int(of.layout.offsets[axis][row]) - part * of.layout.sizes[axis]
                own = slice(first, first + int(of.layout.extents[axis][row]))
                label = of.plan["score"][row] if task.scores else of.plan["label"][row]
                integers = {f"{stack}/{kind}": name for kind, name in names.items() if f"{stack}/{kind}" in of.plan}
                yield {
                    "example_id": int(of.plan["example_id"][row]),
                    task.label_field: label.item(),
                    **{name: plan_slices(of.plan, array, [row])[0] for array, name in integers.items()},
                    "hidden_states": decode(hidden[:, own], calibration, None if rms is None else rms[:, own]),
                }

    return rows()


def decode(stored: np.ndarray, calibration: Calibration | None, rms: np.ndarray | None) -> np.ndarray:
    """Return states [L+1, n, D] float32 of stored values, as `store/schema.py` defines them; without `rms`, x."""
    values = (stored.astype(np.uint32) << 16).view(np.float32) if stored.dtype == np.uint16 else stored
    if calibration is None:
        return values
    y = calibration.scale[:, None] * values
    if calibration.basis is not None:
        y = y @ calibration.basis
    x = calibration.mean[:, None] + calibration.deviation[:, None] * y
    return x if rms is None else rms[..., None] * x
