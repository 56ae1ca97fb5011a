"""Time of a run divided by the forecast of `read-cache plan`, on settings that differ in family, shape and format."""

import contextlib
import dataclasses
import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

from read_cache.api import TrainWatch, extract, train
from read_cache.backbones.packages import PACKAGED
from read_cache.bench.case import Case
from read_cache.bench.measure import Facts, Result
from read_cache.config import ExtractConfig, ExtractPlace, Place
from read_cache.data import BUNDLED_BACKBONE
from read_cache.planning.forecast import forecast
from read_cache.training.loop import Progress
from read_cache.training.recipe import Recipe

TARGET = "0.85 to 1.15"
RUN: dict[str, Any] = {"epochs": 3, "patience": 3}
MINILM = "minilm-l6"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting that is planned and then run."""

    model: str
    task: str
    dataset: str | None
    extract: dict[str, Any]
    cell: str


def find_settings(case: Case) -> list[Setting]:
    """Return the bundled T5 on a sample task, MiniLM on MRPC if both are at hand, and the case's shape on its rows."""
    config = case.config
    some = {"max_examples": 8 * config.rows}
    settings = [Setting(BUNDLED_BACKBONE, "sample-sentiment", None, some, "rnn")]
    if config.dataset and config.task == "mrpc" and importlib.util.find_spec(PACKAGED[MINILM][0]):
        settings.append(Setting(MINILM, config.task, config.dataset, {"dtype": "int8", **some}, "gru"))
    if config.plans > len(settings):
        settings.append(Setting(str(case.model), config.task, config.dataset, {"max_examples": config.rows}, "rnn"))
    return settings[: config.plans]


def bench_plan(case: Case) -> Result:
    """Bytes and seconds: planned, and measured while the commands' own functions run."""
    table: list[Facts] = []
    for setting in find_settings(case):
        name = f"{Path(setting.model).name}, {setting.task}, {setting.extract}, {setting.cell}"
        for quantity, (planned, measured) in compare(case.folder / "planned", setting).items():
            row = {"setting": name, "quantity": quantity, "planned": planned, "measured": measured}
            target = "1" if quantity == "megabytes" else TARGET
            table.append(row | {"measured / planned": measured / planned, "target": target})
    return Result({"epochs": RUN["epochs"]}, table=table)


def compare(folder: Path, setting: Setting) -> dict[str, tuple[float, float]]:
    """Return (planned, measured) by quantity."""
    planned = forecast(
        setting.model,
        setting.task,
        dataset=setting.dataset,
        extract=ExtractConfig(**setting.extract),
        place=ExtractPlace(),
        recipe=Recipe().override({"cell": setting.cell, **RUN}),
        training_place=Place(),
    )
    clocks, ends = [time.perf_counter()], list[float]()
    extract(setting.model, setting.task, folder / "store", dataset=setting.dataset, **setting.extract)
    clocks.append(time.perf_counter())
    progress = Progress(epoch=lambda task, epoch, epochs, learners: ends.append(time.perf_counter()))
    watch = TrainWatch(progress=lambda folder, manifest: contextlib.nullcontext(progress))
    train(folder / "store", folder / "run", watch=watch, cell=setting.cell, **RUN)
    clocks.append(time.perf_counter())
    arrays = folder / "store" / "arrays.zarr"
    files = [path for name in planned.bytes for path in arrays.glob(f"*/{name}/c/**/*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    shutil.rmtree(folder)
    extraction, training = planned.stages["extraction"], planned.stages["training"]
    epoch = sum(training[work] for work in ("training epoch", "validation", "checkpoint"))
    return {
        "megabytes": (sum(planned.bytes.values()) / 1e6, size / 1e6),
        "extraction, seconds": (extraction["extraction"], clocks[1] - clocks[0]),
        "epoch and validation, seconds": (epoch, (ends[-1] - ends[0]) / (len(ends) - 1)),
        "training, seconds": (training["training"], clocks[2] - clocks[1]),
    }
