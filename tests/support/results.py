"""Results of networks that nobody trained."""

import math
from typing import Any

from read_cache.meters.readings import Readings
from read_cache.report.tables import paper
from read_cache.training.results import Epoch, Result, StopReason
from support.boards import FakeBoard, measure

EXTRACTION = measure(FakeBoard(50, joules=[0.0, 3.6e6], limit=200.0), [3600.0])
"""0.1 kWh by Eq. 4 in an hour, 1 kWh by the counter."""
TRAINING = measure(FakeBoard(100, joules=[0.0, 7.2e6], limit=200.0), [7200.0])
"""0.4 kWh by Eq. 4 in two hours, 2 kWh by the counter."""


def result(
    task: str = "cola",
    kind: str = "read",
    seed: int = 0,
    validation: float | None = 50.0,
    *,
    rate: float = 0.001,
    config: dict[str, Any] | None = None,
    readings: Readings = TRAINING,
    extraction: Readings | None = EXTRACTION,
    **others: Any,
) -> Result:
    """Return a result as training writes it; its test metric is its validation metric unless given."""
    config = config or {}
    details = "-".join(f"{value}" for value in config.values())
    epochs = 3 if validation is not None else 0
    history = [
        Epoch(train_loss=2 / (epoch + 1), validation_loss=math.sqrt(epoch + 1), validation=validation - 5 + 2.5 * epoch)
        for epoch in range(epochs)
        if validation is not None
    ]
    values: dict[str, Any] = {
        "task": task, "kind": kind, "seed": seed, "validation": validation, "test": validation, "config": config,
        "learning_rate": rate, "metric": "accuracy", "backbone": "t5-base", "configuration": f"{details}-{rate}",
        "network": "-".join(filter(None, [kind, details, f"lr{rate:g}", f"seed{seed}"])),
        "label": "-".join(filter(None, [kind, details, f"lr{rate:g}"])), "run": {}, "epochs": epochs,
        "best_epoch": epochs, "history": history, "parameters": 1000, "parameters_percent": 0.8, "folder": "",
        "stop": StopReason.all_epochs if epochs else StopReason.diverged, "readings": readings.values(),
        "stop_detail": "all 3 epochs" if epochs else "its loss became nan at step 0",
        "extraction": extraction and extraction.values(), "examples": paper()["rows"].get(task, {}),
        "store": f"stores/{task}", "identity": f"{task}0123456789",
    }  # fmt: skip
    return Result(**values | others)
