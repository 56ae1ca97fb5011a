"""What happens / what `read-cache plan` says, on settings that differ in family, shape and format."""

import contextlib
import dataclasses
import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

from read_cache.backbones.packages import PACKAGED
from read_cache.bench.case import Case
from read_cache.bench.measure import Facts, Result
from read_cache.config import ExtractConfig
from read_cache.data import BUNDLED_BACKBONE
from read_cache.planning.forecast import forecast
from read_cache.planning.processes import in_own_process
from read_cache.system import keep_few_kernels, keep_freed_memory
from read_cache.training.recipe import Recipe

TARGET = "0.85 to 1.15"
RUN: dict[str, Any] = {"epochs": 3, "patience": 3}
MINILM = "minilm-l6"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is planned and then done."""

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
    """Bytes, seconds and peak memory: planned, and measured while the commands' own functions run."""
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
    recipe = Recipe().override({"cell": setting.cell, **RUN})
    planned = forecast(
        setting.model, setting.task, dataset=setting.dataset, extract=ExtractConfig(**setting.extract), recipe=recipe
    )
    folder.mkdir()
    done = in_own_process(extract, setting, folder) | in_own_process(train, setting, folder)
    arrays = folder / "store" / "arrays.zarr"
    files = [path for name in planned.bytes for path in arrays.glob(f"*/{name}/c/**/*") if path.is_file()]
    done["megabytes"] = sum(path.stat().st_size for path in files) / 1e6
    shutil.rmtree(folder)
    said = {"megabytes": sum(planned.bytes.values()) / 1e6}
    for name, stage in planned.stages.items():
        said |= {f"{work}, seconds": seconds for work, seconds in stage.seconds.items()}
        said |= {f"{name}, peak megabytes": peak / 1e6 for where, peak in stage.peak_bytes.items() if where == "host"}
    epoch = ("training epoch", "validation", "checkpoint")
    said["epoch and validation, seconds"] = sum(said[f"{work}, seconds"] for work in epoch)
    return {name: (said[name], done[name]) for name in done if name in said and done[name]}


def extract(setting: Setting, folder: Path) -> dict[str, float]:
    """Extract as the command does; return what it took, by quantity."""
    started = time.perf_counter()
    keep_freed_memory()
    keep_few_kernels()
    from read_cache.api.extraction import extract
    from read_cache.meters.sessions import sessions_json

    store = extract(setting.model, setting.task, folder / "store", dataset=setting.dataset, **setting.extract)
    peak = (sessions_json(store.folder.files) or {}).get("host_peak_bytes") or 0.0
    return {"extraction, seconds": time.perf_counter() - started, "extraction, peak megabytes": peak / 1e6}


def train(setting: Setting, folder: Path) -> dict[str, float]:
    """Train as the command does; return what it took, by quantity."""
    started = time.perf_counter()
    keep_freed_memory()
    from read_cache.api.training import TrainWatch, train
    from read_cache.training.loop import Progress

    ends: list[float] = []
    progress = Progress(epoch=lambda task, epoch, epochs, learners: ends.append(time.perf_counter()))
    watch = TrainWatch(progress=lambda folder, manifest: contextlib.nullcontext(progress))
    results = train(folder / "store", folder / "run", watch=watch, cell=setting.cell, **RUN).results
    peak = results[0].readings.get("host_peak_bytes") or 0.0
    return {
        "epoch and validation, seconds": (ends[-1] - ends[0]) / (len(ends) - 1),
        "training, seconds": time.perf_counter() - started,
        "training, peak megabytes": peak / 1e6,
    }
